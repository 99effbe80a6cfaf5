"""config.json is read strictly: what is not understood is refused by name, never read as something else."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import v3bench.model_ref.config as module
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.model_ref.config import Config
from v3bench.model_ref.config_json import architecture
from v3bench.model_ref.errors import BadInput

FOLDER = Path(module.__file__).parent / "presets"
PRESETS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
V3 = PRESETS["deepseek-v3"]
STATUS = {"confirmed", "recomputed", "inference", "memory", "ours"}
TABLES = {"rope_scaling", "rope_parameters", "quantization_config"}  # keys of every architecture
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def read(**changes):
    return Config.from_dict(V3 | changes)


def refused(*words, base=V3, without=(), **changes):
    """Reading raises one line that holds every word."""
    raw = {key: value for key, value in (base | changes).items() if key not in without}
    with pytest.raises(BadInput) as caught:
        Config.from_dict(raw, where="some/config.json")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("some/config.json: ")
    for word in words:
        assert word in line, line


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_with_the_values_of_its_file(name):
    config = Config.from_file(FOLDER / f"{name}.json")
    for key, value in PRESETS[name].items():
        if key != "rope_scaling" and hasattr(config, key):
            assert getattr(config, key) == value


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_source(name):
    sources = tomllib.loads((FOLDER / "sources.toml").read_text())
    assert sources.keys() == PRESETS.keys()
    source = sources[name]
    assert source["origin"]
    assert source["status"] in STATUS
    for field, own in source.get("fields", {}).items():
        assert field in PRESETS[name]
        assert own["status"] in STATUS - {source["status"]}


def test_the_ablation_presets_are_marked_as_inferred():
    sources = tomllib.loads((FOLDER / "sources.toml").read_text())
    assert {name for name, source in sources.items() if source["status"] == "inference"} == {
        "ablation-large",
        "ablation-small",
    }


REQUIRED = [
    (name, key)
    for name, raw in PRESETS.items()
    for key in raw
    if key
    not in architecture(raw["model_type"])["defaults"].keys()
    | architecture(raw["model_type"])["inert"].keys() - {"model_type"}
    and key not in ("rope_scaling", "quantization_config")
]


@pytest.mark.parametrize("name, key", REQUIRED)
def test_a_missing_key_is_named(name, key):
    refused(key, base=PRESETS[name], without=[key])


def test_the_required_keys_are_the_sizes():
    sizes = """model_type hidden_size num_hidden_layers first_k_dense_replace num_attention_heads q_lora_rank
        kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim intermediate_size moe_intermediate_size
        n_routed_experts n_shared_experts num_experts_per_tok n_group topk_group routed_scaling_factor
        vocab_size max_position_embeddings"""
    assert {key for name, key in REQUIRED if name == "deepseek-v3"} == set(sizes.split())


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(PRESETS)),
    key=st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=20),
    value=ANY_JSON,
)
def test_an_unknown_key_is_named(name, key, value):
    table = architecture(PRESETS[name]["model_type"])
    known = PRESETS[name].keys() | table["inert"].keys() | table["defaults"].keys() | TABLES
    if key not in known:
        refused(repr(key), base=PRESETS[name], **{key: value})


@settings(max_examples=600, deadline=None)
@given(name=st.sampled_from(sorted(PRESETS)), data=st.data(), value=ANY_JSON)
def test_any_value_under_any_key_is_read_or_refused(name, data, value):
    table = architecture(PRESETS[name]["model_type"])
    known = PRESETS[name].keys() | table["inert"].keys() | TABLES
    key = data.draw(st.sampled_from(sorted(known)))
    error = None
    try:
        Config.from_dict(PRESETS[name] | {key: value})
    except BadInput as raised:
        error = str(raised)
    assert error is None or ("\n" not in error and len(error) < 400)


@pytest.mark.parametrize("value", ["deepseek_v32", "llama", None, 3, [], "DeepseekV3ForCausalLM"])
def test_an_unknown_model_type(value):
    refused("model_type", "is not understood", "deepseek_v3 or deepseek_v2 or kimi_k2", model_type=value)


@pytest.mark.parametrize("key", ["num_routed_experts", "num_experts", "num_local_experts", "n_routed_expert"])
def test_a_renamed_expert_count_is_refused(key):
    refused(repr(key), without=["n_routed_experts"], **{key: 256})


def test_the_nearest_known_key_is_named():
    refused("key 'n_routed_expert'", "expected 'n_routed_experts'", n_routed_expert=256)
    refused("key 'rms_norm_epsilon'", "expected 'rms_norm_eps'", rms_norm_epsilon=1e-6)


def test_the_harmless_values_of_an_inert_key_are_named():
    refused("'attention_dropout' = 0.1", "expected 0.0 or null", attention_dropout=0.1)
    refused("'head_dim' = 192", "expected = qk_rope_head_dim", head_dim=192)


@pytest.mark.parametrize("key", ["quantization_block", "MODEL_TYPES", "derive"])
def test_names_of_this_class_are_no_keys(key):
    refused(repr(key), **{key: [128, 128]})


@pytest.mark.parametrize(
    "key, value",
    [
        ("hidden_size", "7168"),
        ("hidden_size", 7168.5),
        ("hidden_size", True),
        ("hidden_size", None),
        ("hidden_size", 0),
        ("hidden_size", -1),
        ("num_hidden_layers", [61]),
        ("first_k_dense_replace", -1),
        ("first_k_dense_replace", 62),
        ("q_lora_rank", 0),
        ("rms_norm_eps", 0.0),
        ("rms_norm_eps", "1e-6"),
        ("rms_norm_eps", float("nan")),
        ("initializer_range", -0.02),
        ("norm_topk_prob", 1),
        ("norm_topk_prob", None),
        ("scoring_func", "relu"),
        ("topk_method", "random"),
        ("topk_method", None),
        ("hidden_act", "gelu"),
        ("moe_layer_freq", 2),
        ("n_group", 7),
        ("topk_group", 9),
        ("num_experts_per_tok", 129),
        ("qk_rope_head_dim", 63),
        ("num_key_value_heads", 8),
        ("architectures", ["DeepseekV3ForSequenceClassification"]),
        ("attention_dropout", 0.1),
        ("pretraining_tp", 2),
        ("head_dim", 192),
        ("qk_head_dim", 64),
        ("tie_word_embeddings", "no"),
    ],
)
def test_a_value_that_cannot_be(key, value):
    refused(key, **{key: value})


def test_derived_head_dims_of_transformers_are_accepted():
    assert read(qk_head_dim=192, head_dim=64) == read()


def test_a_group_of_one_expert_has_no_two_best():
    refused("two best", n_group=256, topk_group=8)


def test_integral_floats_are_integers():
    config = read(hidden_size=7168.0)
    assert config.hidden_size == 7168
    assert isinstance(config.hidden_size, int)


@pytest.mark.parametrize("key, meaning", [("n_group", 1), ("topk_group", 1), ("n_shared_experts", 0)])
def test_null_where_the_released_code_allows_it(key, meaning):
    config = Config.from_dict(PRESETS["deepseek-v2-lite"] | {key: None})
    assert getattr(config, key) == meaning


def test_defaults_are_the_architectures():
    left = {
        key: value for key, value in PRESETS["deepseek-v2-lite"].items() if key not in ("topk_method", "scoring_func")
    }
    config = Config.from_dict(left)
    assert (config.topk_method, config.scoring_func, config.has_correction_bias) == ("greedy", "softmax", False)
    left = {
        key: value
        for key, value in V3.items()
        if key not in ("topk_method", "scoring_func", "num_nextn_predict_layers")
    }
    config = Config.from_dict(left)
    assert (config.topk_method, config.scoring_func, config.has_correction_bias) == ("noaux_tc", "sigmoid", True)
    assert config.num_nextn_predict_layers == 0


def test_kimi_k2_is_of_this_architecture():
    raw = V3 | {"model_type": "kimi_k2", "n_group": 1, "topk_group": 1, "n_routed_experts": 384, "rope_theta": 50000.0}
    raw |= {"num_attention_heads": 64, "num_key_value_heads": 64, "vocab_size": 163840, "num_nextn_predict_layers": 0}
    raw["rope_scaling"] = V3["rope_scaling"] | {"factor": 32.0, "beta_fast": 1.0}
    config = Config.from_dict(raw)
    assert (config.model_type, config.n_routed_experts, config.rope_scaling.beta_fast) == ("kimi_k2", 384, 1.0)


def test_replace_checks_again():
    assert read().replace(num_hidden_layers=4).num_hidden_layers == 4
    with pytest.raises(BadInput, match="first_k_dense_replace 3 exceeds num_hidden_layers 2"):
        read().replace(num_hidden_layers=2)


def test_overrides_are_dotted():
    path = FOLDER / "deepseek-v3.json"
    assert Config.from_file(path, {"rope_scaling.factor": 8, "q_lora_rank": None}).rope_scaling.factor == 8
    with pytest.raises(
        BadInput, match=r"--set rope_scalin\.factor: 'rope_scalin' is no table; expected 'rope_scaling'"
    ):
        Config.from_file(path, {"rope_scalin.factor": 8})


@pytest.mark.parametrize("name", PRESETS)
def test_what_transformers_saves_reads_as_the_preset(name, tmp_path):
    from transformers import DeepseekV2Config, DeepseekV3Config

    cls = {"deepseek_v3": DeepseekV3Config, "deepseek_v2": DeepseekV2Config}[PRESETS[name]["model_type"]]
    cls(**PRESETS[name]).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in saved
    assert Config.from_file(tmp_path / "config.json") == Config.from_dict(PRESETS[name])
