"""The parts of a config.json: the file itself, both RoPE spellings, the quantization table."""

from __future__ import annotations

import pytest
from v3bench.model_ref.config_json import RopeScaling, is_inert, override, read_json, read_quantization, read_rope
from v3bench.model_ref.errors import BadInput

YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    "content, words",
    [
        (b'{"a": 1,}', "line 1 is not JSON"),
        (b'{"a": 1}\n{"b"', "line 2 is not JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "key 'c' is given twice"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b"[1]", "holds no JSON object"),
        (b"", "is not JSON"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b"[" * 100_000, "is not JSON that can be read"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON that can be read"),
    ],
)
def test_a_file_that_is_no_json_object(tmp_path, content, words):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(BadInput, match="cannot be read \\(No such file"):
        read_json(tmp_path / "nothing.json")
    with pytest.raises(BadInput, match="cannot be read \\(Is a directory"):
        read_json(tmp_path)


def test_override_leaves_the_original_alone():
    raw = {"a": {"b": 1}}
    assert override(raw, {"a.b": 2, "c": None}, "here") == {"a": {"b": 2}, "c": None}
    assert raw == {"a": {"b": 1}}


def test_both_spellings_of_rope_read_the_same():
    old = {"rope_theta": 10000, "rope_scaling": YARN}
    new = {"rope_parameters": {**YARN, "rope_type": "yarn", "rope_theta": 10000.0}}
    both = old | new
    assert read_rope(dict(old), "") == read_rope(dict(new), "") == read_rope(dict(both), "")
    assert read_rope({}, "") == (None, None)
    assert read_rope({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "") == (5e5, None)
    assert read_rope({"rope_scaling": None, "rope_parameters": {"rope_theta": 5e5}}, "") == (5e5, None)


def test_reading_rope_takes_its_keys_out():
    raw = {"rope_theta": 1, "rope_scaling": None, "rope_parameters": None, "other": 1}
    read_rope(raw, "")
    assert raw == {"other": 1}


@pytest.mark.parametrize(
    "raw, words",
    [
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            "rope_theta is 10000; rope_parameters.rope_theta is 500000",
        ),
        ({"rope_scaling": YARN, "rope_parameters": {**YARN, "factor": 4}}, "disagree"),
        ({"rope_scaling": YARN, "rope_parameters": {"rope_type": "default"}}, "disagree"),
        ({"rope_scaling": [YARN]}, "rope_scaling is"),
        ({"rope_parameters": "yarn"}, "rope_parameters is 'yarn'"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_theta": True}, "rope_theta is True"),
        ({"rope_theta": 10**400}, "beyond the range"),
        ({"rope_parameters": {"rope_theta": [1e4]}}, "rope_theta is [10000.0]"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {}}}, "'full_attention'"),
    ],
)
def test_rope_that_contradicts_itself(raw, words):
    with pytest.raises(BadInput) as caught:
        read_rope(raw, "config.json")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "raw, words",
    [
        ({**YARN, "rope_type": "llama3"}, "rope_type 'llama3' and type 'yarn'"),
        ({**YARN, "type": "longrope"}, "'longrope' is not understood"),
        ({**YARN, "type": ["yarn"]}, "is not understood"),
        ({**YARN, "type": "linear"}, "default, yarn, llama3"),
        ({"type": "yarn", "factor": 40}, "lacks original_max_position_embeddings"),
        ({**LLAMA3, "factor": None}, "lacks factor"),
        ({**YARN, "low_freq_factor": 1.0}, "'low_freq_factor'"),
        ({**LLAMA3, "mscale": 1.0}, "'mscale'"),
        ({**YARN, "attention_factor": 1.2}, "'attention_factor'"),
        ({**YARN, "betafast": 32}, "expected 'beta_fast'"),
        ({"type": "default", "factor": 8.0}, "'factor'"),
        ({"factor": 8.0}, "'factor'"),
        ({**YARN, "factor": 0.5}, "factor is 0.5; expected a number of at least 1"),
        ({**YARN, "factor": "40"}, "factor is '40'"),
        ({**YARN, "original_max_position_embeddings": 4096.5}, "expected an integer"),
        ({**YARN, "beta_fast": 1, "beta_slow": 32}, "beta_fast is below beta_slow"),
        ({**LLAMA3, "high_freq_factor": 1.0}, "not above low_freq_factor"),
        ({"type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({**LLAMA3, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    ],
)
def test_scaling_that_is_not_understood(raw, words):
    with pytest.raises(BadInput) as caught:
        RopeScaling.read(raw, "config.json")
    assert words in str(caught.value)


def test_scaling_values():
    scaling = RopeScaling.read(LLAMA3, "")
    assert (scaling.kind, scaling.factor, scaling.original_max_position_embeddings) == ("llama3", 8.0, 8192)
    assert RopeScaling.read({**YARN, "mscale": None, "partial_rotary_factor": 1.0}, "").mscale == 1.0


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    "raw", [FP8, {**FP8, "scale_fmt": "ue8m0"}, {**FP8, "modules_to_not_convert": None, "dequantize": False}]
)
def test_fp8_blocks(raw):
    assert read_quantization(raw, "") == (128, 128)


@pytest.mark.parametrize(
    "raw, words",
    [
        ("fp8", "quantization_config is 'fp8'"),
        ({}, "lacks quant_method"),
        ({**FP8, "quant_method": "awq"}, "quant_method 'awq'"),
        ({**FP8, "fmt": "e5m2"}, "fmt 'e5m2' is not understood; expected e4m3"),
        ({**FP8, "activation_scheme": "static"}, "activation_scheme 'static'"),
        ({**FP8, "scale_fmt": "ue4m3"}, "scale_fmt 'ue4m3'"),
        ({**FP8, "bits": 8}, "key 'bits'"),
        ({**FP8, "weight_block_size": None}, "weight_block_size None"),
        ({**FP8, "weight_block_size": [128]}, "weight_block_size [128]"),
        ({**FP8, "weight_block_size": [128, 0]}, "weight_block_size [128, 0]"),
        ({**FP8, "weight_block_size": [128, True]}, "weight_block_size"),
        ({"quant_method": "fp8"}, "weight_block_size None"),
    ],
)
def test_quantization_that_is_not_understood(raw, words):
    with pytest.raises(BadInput) as caught:
        read_quantization(raw, "config.json")
    assert words in str(caught.value)


def test_inert_values():
    inert = {"free": "any", "listed": [0.0, None, ["A"]], "derived": "= a + b"}
    raw = {"a": 2, "b": 3}
    assert is_inert("free", object(), raw, inert)
    assert is_inert("listed", 0, raw, inert)
    assert is_inert("listed", ["A"], raw, inert)
    assert not is_inert("listed", False, raw, inert)
    assert not is_inert("listed", 0.1, raw, inert)
    assert is_inert("derived", 5, raw, inert)
    assert is_inert("derived", None, raw, inert)
    assert not is_inert("derived", 6, raw, inert)
    assert is_inert("derived", 6, {"a": 2}, inert)  # b is missing, and is what will be named
    assert not is_inert("unknown", None, raw, inert)
