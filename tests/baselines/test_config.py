"""Llama's and Qwen's config.json: presets, head widths, windows per layer, refusals."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import v3bench.baselines.config as module
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.baselines import DenseConfig
from v3bench.model_ref.config_json import architecture
from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws import params
from v3bench.suite.models import load

FOLDER = Path(module.__file__).parent / "presets"
PRESETS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
LLAMA, QWEN = PRESETS["llama-3.1-8b"], PRESETS["qwen2.5-7b"]
TABLES = {"rope_scaling", "rope_parameters", "quantization_config"}  # keys of every architecture
ANY_JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=5))


def refused(base, *words, without=(), **changes):
    with pytest.raises(BadInput) as caught:
        DenseConfig.from_dict(
            {key: value for key, value in (base | changes).items() if key not in without}, where="here"
        )
    line = str(caught.value)
    assert "\n" not in line
    for word in ("here: ", *words):
        assert word in line, line


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_with_the_values_of_its_file(name):
    config = DenseConfig.from_file(FOLDER / f"{name}.json")
    for key, value in PRESETS[name].items():
        if key != "rope_scaling" and hasattr(config, key):
            assert getattr(config, key) == value
    assert config.qkv_bias == name.startswith("qwen")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_source(name):
    sources = tomllib.loads((FOLDER / "sources.toml").read_text())
    assert sources.keys() == PRESETS.keys()
    assert sources[name]["origin"]
    assert sources[name]["status"] in {"confirmed", "recomputed", "inference", "memory", "ours"}
    for field, own in sources[name].get("fields", {}).items():
        assert field in PRESETS[name]
        assert own["status"] in {"inference", "memory"}


@pytest.mark.parametrize(
    "dense, sparse",
    [("llama-small", "deepseek-v3-small"), ("qwen2.5-small", "deepseek-v3-small"), ("llama-tiny", "deepseek-v3-tiny")],
)
def test_partners_have_equally_many_activated_parameters(dense, sparse):
    mine, its = (params.count(load(name)[1]).activated_without_input_embedding for name in (dense, sparse))
    assert abs(mine / its - 1) < 0.002


@pytest.mark.parametrize("name", PRESETS)
def test_what_transformers_saves_reads_as_the_preset(name, tmp_path):
    from transformers import LlamaConfig, Qwen2Config

    cls = {"llama": LlamaConfig, "qwen2": Qwen2Config}[PRESETS[name]["model_type"]]
    cls(**PRESETS[name]).save_pretrained(tmp_path)
    assert "rope_parameters" in json.loads((tmp_path / "config.json").read_text())
    assert DenseConfig.from_file(tmp_path / "config.json") == DenseConfig.from_dict(PRESETS[name])


@pytest.mark.parametrize("name", PRESETS)
def test_a_missing_key_is_named(name):
    table = architecture(PRESETS[name]["model_type"])
    required = PRESETS[name].keys() - table["defaults"].keys() - table["inert"].keys() - {"rope_scaling"}
    assert {"hidden_size", "num_attention_heads", "vocab_size"} <= required
    for key in required | {"model_type"}:
        refused(PRESETS[name], key, without=[key])


def test_qwen_must_say_how_many_key_value_heads_it_has():
    refused(QWEN, "num_key_value_heads", without=["num_key_value_heads"])


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(PRESETS)),
    key=st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=20),
    value=ANY_JSON,
)
def test_an_unknown_key_is_named(name, key, value):
    table = architecture(PRESETS[name]["model_type"])
    if key not in PRESETS[name].keys() | table["inert"].keys() | table["defaults"].keys() | TABLES:
        refused(PRESETS[name], repr(key), **{key: value})


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(sorted(PRESETS)), data=st.data(), value=ANY_JSON)
def test_any_value_under_any_key_is_read_or_refused(name, data, value):
    table = architecture(PRESETS[name]["model_type"])
    key = data.draw(
        st.sampled_from(sorted(PRESETS[name].keys() | table["inert"].keys() | table["defaults"].keys() | TABLES))
    )
    error = None
    try:
        DenseConfig.from_dict(PRESETS[name] | {key: value})
    except BadInput as raised:
        error = str(raised)
    assert error is None or ("\n" not in error and len(error) < 400)


@pytest.mark.parametrize("key", ["qkv_bias", "sliding_layers", "windowed_from", "quantization_block"])
def test_derived_fields_are_no_keys(key):
    refused(LLAMA, repr(key), **{key: 1})


@pytest.mark.parametrize(
    "base, key, value",
    [
        (LLAMA, "num_key_value_heads", 5),
        (LLAMA, "num_key_value_heads", 0),
        (LLAMA, "num_attention_heads", 0),
        (LLAMA, "hidden_size", 4095),
        (LLAMA, "head_dim", 127),
        (LLAMA, "head_dim", "128"),
        (LLAMA, "sliding_window", 0),
        (LLAMA, "mlp_bias", 1),
        (LLAMA, "architectures", ["MistralForCausalLM"]),
        (QWEN, "attention_bias", True),
        (QWEN, "mlp_bias", True),
        (QWEN, "use_mrope", True),
        (QWEN, "layer_types", ["full_attention"] * 27),
        (QWEN, "layer_types", ["linear_attention"] * 28),
        (QWEN, "layer_types", "full_attention"),
        (QWEN, "layer_types", [["full_attention"]] * 28),
        (QWEN, "num_hidden_layers", "28"),
    ],
)
def test_a_value_that_cannot_be(base, key, value):
    refused(base, key, **{key: value})


def test_head_dim_is_the_models_or_its_own():
    assert DenseConfig.from_dict(LLAMA).head_dim == 128
    assert DenseConfig.from_dict(LLAMA | {"head_dim": 64}).head_dim == 64
    assert DenseConfig.from_dict(LLAMA | {"head_dim": None}).head_dim == 128


def test_without_key_value_heads_llama_is_multi_head():
    assert (
        DenseConfig.from_dict({k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}).num_key_value_heads == 32
    )


def test_llamas_attention_bias_is_on_every_projection():
    config = DenseConfig.from_dict(LLAMA | {"attention_bias": True})
    assert (config.qkv_bias, config.attention_bias) == (True, True)
    config = DenseConfig.from_dict(QWEN)
    assert (config.qkv_bias, config.attention_bias) == (True, False)


def windows(raw):
    config = DenseConfig.from_dict(raw)
    return [config.window(i) for i in range(config.num_hidden_layers)]


def test_windows():
    used = {"use_sliding_window": True, "sliding_window": 512}
    assert windows(LLAMA) == [None] * 32
    assert windows(LLAMA | {"sliding_window": 64}) == [64] * 32
    assert windows(QWEN | {"sliding_window": 64}) == [None] * 28  # not in use
    assert windows(QWEN | used | {"max_window_layers": 20}) == [None] * 20 + [512] * 8
    assert windows(QWEN | used) == [None] * 28  # from layer 28 on, the released code's default
    assert windows(QWEN | {"use_sliding_window": True, "max_window_layers": 0}) == [4096] * 28  # its default width
    types = ["sliding_attention", "full_attention"] * 14
    assert windows(QWEN | used | {"layer_types": types}) == [512, None] * 14
    refused(QWEN, "layer_types has sliding_attention without a sliding_window", layer_types=types)


def test_fewer_layers_keep_their_windows():
    config = DenseConfig.from_dict(QWEN | {"use_sliding_window": True, "max_window_layers": 2}).replace(
        num_hidden_layers=3
    )
    assert [config.window(i) for i in range(3)] == [None, None, 4096]
