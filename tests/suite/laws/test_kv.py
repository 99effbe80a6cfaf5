"""KV cache bytes: the published rows, storages, windows, same-model comparisons."""

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws import kv
from v3bench.suite.models import load

BF16 = {
    "deepseek-v3": 70_272, "deepseek-v2": 69_120, "deepseek-v2-lite": 31_104,
    "llama-3.1-8b": 131_072, "llama-3.1-70b": 327_680, "llama-3.1-405b": 516_096,
    "qwen2.5-7b": 57_344, "qwen2.5-72b": 327_680,
}  # fmt: skip


def config(name, **changes):
    return load(name)[1].replace(**changes)


@pytest.mark.parametrize("preset", BF16)
def test_bytes_per_token(preset):
    assert kv.bytes_per_token(config(preset)) == BF16[preset]
    assert kv.bytes_per_token(config(preset), "fp8") == BF16[preset] // 2


def test_flashmla_layout_exists_for_its_one_shape_only():
    v3 = config("deepseek-v3")
    assert kv.bytes_per_token_and_layer(v3, "fp8_flashmla") == 512 + 4 * 4 + 64 * 2 == 656
    assert kv.bytes_per_token(v3, "fp8_flashmla") == 40_016
    assert kv.bytes_per_token(config("deepseek-v3", kv_lora_rank=256), "fp8_flashmla") is None
    assert kv.bytes_per_token(config("deepseek-v3", qk_rope_head_dim=32), "fp8_flashmla") is None
    assert kv.bytes_per_token(config("llama-3.1-8b"), "fp8_flashmla") is None


def test_unknown_storage_is_refused():
    with pytest.raises(BadInput, match="int4"):
        kv.bytes_per_token(config("deepseek-v3"), "int4")


def test_a_window_caps_its_layers_and_no_others():
    windowed = config("qwen2.5-7b", sliding_window=4096, sliding_layers=tuple(range(20, 28)))
    per_layer = 2 * 4 * 128 * 2
    assert kv.bytes_per_token(windowed) == BF16["qwen2.5-7b"]
    assert kv.bytes_per_sequence(windowed, 4096) == 28 * 4096 * per_layer
    assert kv.bytes_per_sequence(windowed, 131072) == (20 * 131072 + 8 * 4096) * per_layer
    assert kv.bytes_per_sequence(config("qwen2.5-7b"), 131072) == 28 * 131072 * per_layer


def test_against_the_same_model_with_every_head_cached():
    v3 = config("deepseek-v3")
    assert kv.mha_bytes_per_token(v3) == 3_997_696
    assert kv.mha_bytes_per_token(v3, decoupled_key=True) == 4_997_120
    assert kv.mha_bytes_per_token(config("llama-3.1-405b")) == 128 // 8 * 516_096


def test_ratio_between_models():
    v3 = config("deepseek-v3")
    assert kv.ratio(config("llama-3.1-405b"), v3) == 516_096 / 70_272
    assert kv.ratio(config("llama-3.1-405b"), v3, "fp8_flashmla") is None


def test_few_bits_are_packed_and_tokens_that_fill_no_group_stay_bf16():
    assert kv.quantised_bytes(64, 128, 4, (1, 0), 4) == 64 * (64 + 4)
    assert kv.quantised_bytes(64, 128, 4, (32, 1), 4) == 64 * 64 + 2 * 128 * 4
    assert kv.quantised_bytes(70, 127, 4, (32, 1), 4) == 64 * 64 + 2 * 127 * 4 + 6 * 127 * 2
    assert kv.quantised_bytes(3, 512, 8, (1, 128), 4) + 3 * 64 * 2 == 3 * 656
    assert kv.quantised_bytes(0, 5, 8, (4, 2), 4) == 0


def test_a_window_keeps_its_tokens_and_its_sinks():
    assert [kv.kept_tokens(n, 8, 2) for n in (0, 3, 9, 10, 11, 99)] == [0, 3, 9, 10, 10, 10]
    assert kv.kept_tokens(99) == 99
