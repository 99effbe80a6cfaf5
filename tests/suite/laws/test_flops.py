"""FLOP formulas: their own properties. That they equal an operator-level count is test_count.py's matter."""

from itertools import product

import pytest
from v3bench.suite.laws import flops
from v3bench.suite.models import load, presets


def config(name, **changes):
    return load(name)[1].replace(**changes)


@pytest.mark.parametrize("window", [None, 1, 3, 7, 40])
@pytest.mark.parametrize("seq_len", [1, 2, 7, 12])
def test_pairs_are_those_of_the_mask(seq_len, window):
    seen = [(i, j) for i, j in product(range(seq_len), repeat=2) if j <= i and (window is None or j > i - window)]
    assert flops.pairs(seq_len, causal=True, window=window) == len(seen)
    assert flops.pairs(seq_len, causal=False, window=window) == seq_len * min(seq_len, window or seq_len)


@pytest.mark.parametrize("preset", presets())
def test_forward_is_the_sum_of_its_parts_with_head_and_router_in_or_out(preset):
    c = config(preset)
    parts = flops.forward_parts(c, 64)
    assert flops.forward(c, 64) == sum(parts.values())
    assert flops.forward(c, 64, head=False) == sum(parts.values()) - parts["head"]
    assert flops.forward(c, 64, router=False) == sum(parts.values()) - parts["router"]
    assert parts["head"] == 2 * 64 * c.vocab_size * c.hidden_size
    assert flops.train(c, 64) == 3 * flops.forward(c, 64)


@pytest.mark.parametrize("preset", presets())
def test_one_token_costs_the_same_prefilled_or_decoded_but_for_the_form_of_attention(preset):
    c = config(preset)
    prefill, decode = flops.forward_parts(c, 1), flops.decode_parts(c, 1)
    assert decode.pop("attention") == prefill.pop("attention") // flops.expanded_width(c) * flops.absorbed_width(c)
    assert decode == prefill


def test_decode_grows_by_the_absorbed_width_per_position_until_the_window_is_full():
    v3 = config("deepseek-v3")
    assert flops.decode(v3, 4097) - flops.decode(v3, 4096) == 2 * 61 * 128 * (512 + 64 + 512)
    windowed = config("llama-3.1-8b", sliding_window=1000, sliding_layers=(30, 31))
    assert flops.decode(windowed, 1001) - flops.decode(windowed, 1000) == 2 * 30 * 32 * 2 * 128


def test_a_tied_head_is_still_multiplied():
    c = config("llama-3.1-8b")
    assert flops.forward(c.replace(tie_word_embeddings=True), 32) == flops.forward(c, 32)


def test_mtp_is_counted_apart():
    v3 = config("deepseek-v3")
    none = v3.replace(num_nextn_predict_layers=0)
    assert flops.forward(v3, 128) == flops.forward(none, 128)
    assert flops.mtp(none, 128) == 0 == flops.mtp(config("llama-3.1-8b"), 128)
    assert flops.mtp(v3.replace(num_nextn_predict_layers=2), 128) == 2 * flops.mtp(v3, 128)
    assert flops.mtp_parts(v3, 128)["mtp_projection"] == 2 * 128 * 2 * 7168 * 7168
    assert flops.mtp(v3, 128) - flops.mtp(v3, 128, head=False) == 2 * 128 * 129280 * 7168
