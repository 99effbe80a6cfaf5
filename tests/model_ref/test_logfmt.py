"""LogFMT: the grid as printed, its properties, and what the law says of its worst error."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.model_ref import logfmt
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.logfmt import decode, encode, rounded
from v3bench.suite.laws.numerics import logfmt_steps, logfmt_worst_error

floats = st.floats(-(2.0**20), 2.0**20, width=32)
tiles = st.lists(floats, min_size=1, max_size=140).map(torch.tensor)
bits = st.sampled_from([3, 4, 8, 10])


def spread(n, span, seed=0):
    """n magnitudes between 1 and e^span, both there, of either sign."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.exp(torch.rand(n, generator=generator, dtype=torch.float64) * span)
    x[0], x[1] = 1.0, math.exp(span)
    return (x * (torch.randint(0, 2, (n,), generator=generator) * 2 - 1)).float()


def test_codes_are_those_that_are_printed():
    x = torch.tensor([[0.0, 1.0, 8.0, -1.0, -8.0]])
    codes, ends, _ = encode(x, 8)
    assert codes.tolist() == [[0, 1, 127, 129, 255]]  # S.0..0, S.0..01, S.1..1
    assert ends.tolist() == [[[1.0, 8.0]]]
    step = math.log(8) / 126
    middle = decode(logfmt.Encoded(torch.tensor([[64, 192]]), ends, 8))
    assert middle.tolist() == [[pytest.approx(math.exp(step * 63)), pytest.approx(-math.exp(step * 63))]]


@settings(max_examples=150, deadline=None)
@given(tiles, bits)
def test_the_nearest_of_all_codes_is_taken_in_linear_space(x, n):
    y = rounded(x, n)
    for tile, got in zip(x.split(128), y.split(128), strict=True):
        _, ends, _ = encode(tile, n)
        codes = torch.arange(2**n, dtype=torch.int32)
        every = decode(logfmt.Encoded(codes, ends.expand(-(-(2**n) // 128), 2), n))
        every = every.nan_to_num(float("inf"))  # a tile of zeros has but one code
        off = (tile.double()[:, None] - every.double()).abs().amin(1)
        # decoded values are rounded to float32: two of them may be as near
        assert bool(((got.double() - tile.double()).abs() <= off + tile.abs().double() * 2**-23).all())


@settings(max_examples=150, deadline=None)
@given(tiles, bits)
def test_order_stays_the_largest_is_exact_and_signs_are_kept(x, n):
    y = rounded(x, n)
    for tile, got in zip(x.split(128), y.split(128), strict=True):
        order = tile.argsort()
        assert bool((got[order].diff() >= 0).all())
        assert float(got.abs().max()) == float(tile.abs().max())
        assert bool((got * tile >= 0).all())


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 300), st.floats(0.01, 22.0), bits, st.integers(0, 99))
def test_rounding_twice_is_rounding_once_where_no_magnitude_is_cut_off(count, span, n, seed):
    y = rounded(spread(count, span, seed), n)
    assert torch.equal(rounded(y, n), y)


@pytest.mark.parametrize("n", [8, 10])
@pytest.mark.parametrize("span", [0.1, 3.0, 15.0, 22.0])
def test_the_worst_error_is_the_law_s(n, span):
    x = spread(128 * 400, span).view(400, 128)
    x[:, 0], x[:, 1] = 1.0, math.exp(span)
    worst = float(((rounded(x, n) - x) / x).abs().max())
    law = logfmt_worst_error(n, span)
    assert worst <= law + 2**-23  # float32's own rounding
    assert worst >= law * 0.99  # some of 51,200 values lies that close to a border


def test_steps_are_the_law_s():
    assert [logfmt.steps(n) for n in (8, 10)] == [logfmt_steps(n) for n in (8, 10)] == [126, 510]


def test_a_span_beyond_two_to_the_32_is_cut_off():
    x = torch.tensor([[2.0**40, 2.0**8, 2.0**8 * 0.51, 2.0**8 * 0.49, 1.0]])
    codes, ends, _ = encode(x, 8)
    assert ends.tolist() == [[[2.0**8, 2.0**40]]]
    assert codes.tolist() == [[127, 1, 1, 0, 0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_tile_that_holds_nan_or_infinity_becomes_nan_and_no_other(bad):
    x = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    x[1, 130] = bad
    want = torch.zeros(2, 300, dtype=torch.bool)
    want[1, 128:256] = True
    assert torch.equal(rounded(x, 8).isnan(), want)


def test_zeros_subnormals_extremes_and_nothing():
    assert rounded(torch.zeros(2, 130), 8).tolist() == torch.zeros(2, 130).tolist()
    for x in (torch.full((1, 128), 1e-42), torch.tensor([[1e-45, -1e-42, 1e-38]]), torch.tensor([[3e38, -3e38, 1.0]])):
        y = rounded(x, 8)
        assert bool(y.isfinite().all())
        assert float(y.abs().max()) == float(x.abs().max())
    for shape in ((0,), (0, 128), (3, 0)):
        assert rounded(torch.empty(shape), 8).shape == shape


def test_one_magnitude_comes_back():
    x = torch.tensor([[0.3, -0.3, 0.0]])
    assert torch.equal(rounded(x, 8), x)


@pytest.mark.parametrize(
    "n, dtype, what", [(2, torch.float32, "2 bits"), (17, torch.float32, "17 bits"), (8, torch.float64, "float64")]
)
def test_what_does_not_exist_is_refused(n, dtype, what):
    with pytest.raises(BadInput, match=what):
        encode(torch.ones(4, dtype=dtype), n)
