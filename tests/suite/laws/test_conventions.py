"""The table of conventions: the figures in circulation, each under the row that gives it."""

import pytest
from v3bench.suite.laws import flops
from v3bench.suite.laws.conventions import conventions
from v3bench.suite.models import load

# preset, row -> GFLOP per token at 4096, to the digits given
KNOWN = {
    ("deepseek-v3", "train_causal"): 250.46,
    ("deepseek-v3", "train_full"): 281.15,
    ("deepseek-v3", "prefill_full"): 93.72,
    ("deepseek-v3", "train_half_square_without_router"): 249.81,
    ("deepseek-v3", "train_full_without_router"): 280.51,
    ("deepseek-v3", "train_without_attention"): 219.75,
    ("deepseek-v3", "train_causal_with_mtp"): 260.65,
    ("deepseek-v2", "train_causal"): 155.31,
    ("deepseek-v2", "train_half_square_without_router"): 155.01,
    ("qwen2.5-72b", "train_causal"): 444.86,
    ("qwen2.5-72b", "prefill_full"): 153.65,
    ("qwen2.5-72b", "megatron_without_attention"): 394.02,
    ("qwen2.5-72b", "megatron"): 426.23,
    ("llama-3.1-405b", "train_causal"): 2473.23,
    ("llama-3.1-405b", "prefill_full"): 841.32,
    ("llama-3.1-405b", "megatron_without_attention"): 2447.85,
    ("llama-3.1-405b", "megatron"): 2549.32,
}


def table(config, seq_len=4096):
    return {row.name: row for row in conventions(config, seq_len)}


@pytest.mark.parametrize("preset, name", KNOWN)
def test_known_figures(preset, name):
    assert table(load(preset)[1])[name].gflops_per_token == pytest.approx(KNOWN[preset, name], abs=0.006)


def test_rows_are_named_once_and_say_what_they_are():
    rows = conventions(load("deepseek-v3")[1], 4096)
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.formula and row.inserted and row.includes and row.excludes for row in rows)


def test_the_inserted_numbers_give_the_value():
    for preset in ("deepseek-v3", "qwen2.5-72b"):
        for row in conventions(load(preset)[1], 4095):
            text = row.inserted.replace(" x ", " * ").replace("^", "**").replace("3 (", "3 * (")
            assert eval(text) / 1e9 == pytest.approx(row.gflops_per_token, rel=1e-12), row.name


def test_megatron_is_exact_where_the_model_has_its_shape():
    """Full heads and a gated FFN of 8h/3 have the same 12 h^2 weights per layer as MHA and a plain 4h FFN."""
    llama = load("llama-3.1-8b")[1]
    shaped = llama.replace(hidden_size=3072, head_dim=96, num_key_value_heads=32, intermediate_size=8192)
    assert table(shaped)["megatron"].exact
    assert table(shaped)["megatron_without_attention"].exact
    assert not table(llama)["megatron"].exact
    assert not table(llama)["megatron_without_attention"].exact


def test_mtp_row_only_where_there_is_mtp():
    v3 = load("deepseek-v3")[1]
    assert "train_causal_with_mtp" not in table(v3.replace(num_nextn_predict_layers=0))
    extra = table(v3)["train_causal_with_mtp"].gflops_per_token - table(v3)["train_causal"].gflops_per_token
    assert extra == pytest.approx(3 * flops.mtp(v3, 4096) / 4096 / 1e9)
