"""One quantiser on one matrix: what is lost, flushed and clipped, on matrices whose loss is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.precision import RECIPES
from v3bench.suite.budget.distributions import CHANNELS, DISTRIBUTIONS, OUTLIERS, TOKENS, draw
from v3bench.suite.budget.quantisers import QUANTISERS, Quantised


@pytest.mark.parametrize(
    "name, recipe, product, side",
    [
        ("e4m3-1x128", "fp8", "forward", "left"),
        ("e4m3-1x128-ue8m0", "fp8-ue8m0", "forward", "left"),
        ("e4m3-128x128", "fp8-block-gradients", "dgrad", "left"),
        ("e4m3-per-token", "fp8-per-token", "forward", "left"),
        ("e4m3-per-tensor", "fp8-per-tensor", "forward", "left"),
        ("e4m2-1x128", "control-2-bit", "forward", "left"),
        ("e4m1-1x128", "control-1-bit", "forward", "left"),
    ],
)
def test_they_are_the_recipes_own(name, recipe, product, side):
    assert QUANTISERS[name] == getattr(getattr(RECIPES[recipe], product), side)


@pytest.mark.parametrize("name", QUANTISERS)
@settings(deadline=None, max_examples=15)
@given(R=st.integers(0, 140), C=st.integers(0, 200), seed=st.integers(0, 1000), scale=st.integers(-8, 0))
def test_an_element_is_off_by_half_a_step_of_its_box_or_flushed(name, R, C, seed, scale):
    """Values of full precision by half a unit in the last place; the rest by half the least value."""
    quantiser = QUANTISERS[name]
    x = draw("gaussian", R, C, seed) * 2.0**scale if R and C else torch.zeros(R, C)
    found, y = Quantised.of(quantiser, x), quantiser(x)
    assert y.shape == x.shape
    assert found.clipped == 0
    assert 0 <= found.flushed <= 1
    coarse = quantiser.form.half_step * (1 + 1e-5)
    unit = x.abs().max() / quantiser.form.largest * 2 if hasattr(quantiser, "box") and x.numel() else 1.0
    least = quantiser.form.least * unit / 2
    assert bool(((y - x).abs() <= coarse * x.abs() + least).all())


def test_bfloat16_is_torch_s():
    x = torch.tensor([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, 3e38, 1e-40, -0.0]])
    assert torch.equal(QUANTISERS["bf16-unscaled"](x), x.bfloat16().float())


def test_what_vanishes_is_flushed_and_what_is_too_large_clipped():
    x = torch.tensor([[0.0, 2.0**-11, 1.0, 464.0, 465.0, -1000.0]])
    found = Quantised.of(QUANTISERS["e4m3-unscaled"], x)
    assert found.flushed == 1 / 5  # of what was not zero
    assert found.clipped == 2 / 6  # 464 lies halfway, and rounds to 448
    one = Quantised.of(QUANTISERS["e4m3-per-tensor"], x)
    assert (one.flushed, one.clipped) == (1 / 5, 0)
    tile = Quantised.of(QUANTISERS["e4m3-1x128"], torch.tensor([[1e9], [1e-9 + 1e-4]]))
    assert (tile.flushed, tile.clipped) == (0, 0)


def test_infinity_where_the_format_has_it():
    x = torch.tensor([[1e6, 1.0]])
    found = Quantised.of(QUANTISERS["e5m2-1x128"], x)
    assert found.clipped == 0
    assert math.isfinite(found.error.relative)


def test_signal_to_noise_is_the_relative_error_in_decibels():
    x = draw("gaussian", 128, 256)
    found = Quantised.of(QUANTISERS["e4m3-1x128"], x)
    y = QUANTISERS["e4m3-1x128"](x)
    assert found.snr == pytest.approx(10 * math.log10(float(x.square().sum() / (y - x).square().sum())), rel=1e-5)
    assert Quantised.of(QUANTISERS["e4m3-1x128"], torch.ones(2, 4)).snr == math.inf


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_each_mantissa_bit_less_doubles_the_error(distribution):
    x = draw(distribution, 128, 1024)
    three, two, one = (Quantised.of(QUANTISERS[f"e4m{bits}-1x128"], x).error.relative for bits in (3, 2, 1))
    assert 1.7 < two / three < 2.3
    assert 1.7 < one / two < 2.3


def test_a_sample_is_always_the_same_and_another_number_another():
    for name in DISTRIBUTIONS:
        assert torch.equal(draw(name, 8, 16), draw(name, 8, 16))
        assert not torch.equal(draw(name, 8, 16), draw(name, 8, 16, 1))
    with pytest.raises(BadInput, match="gaussian"):
        draw("gausian", 8, 16)


def test_outliers_are_few_and_lie_in_whole_channels_or_tokens():
    low, high = OUTLIERS
    for name, size, dim in (("outlier-channels", (256, 4 * CHANNELS), 0), ("outlier-tokens", (4 * TOKENS, 2048), 1)):
        spread = draw(name, *size).std(dim)
        outliers = spread[spread > low * 0.8]
        assert len(outliers) == 4
        assert float(outliers.max()) < high * 1.2
        assert float(spread[spread < low * 0.8].max()) < 1.3
    assert int((draw("outlier-channels", 100, 3).std(0) > 20).sum()) == 1


def test_distributions_differ_in_their_tails():
    """The share of values beyond six times the median magnitude, in closed form for two of them."""
    share = {}
    for name in ("gaussian", "laplace", "student-t"):
        x = draw(name, 256, 1024).abs()
        share[name] = float((x > 6 * x.median()).float().mean())
    assert share["gaussian"] < 2e-4
    assert share["laplace"] == pytest.approx(2**-6, rel=0.1)
    t = 6 * 0.76489 / math.sqrt(3)  # six times the median of |t| of 3 degrees of freedom
    assert share["student-t"] == pytest.approx(1 - 2 / math.pi * (t / (1 + t * t) + math.atan(t)), rel=0.1)
