"""Emulated quantisation with scales: the kernels' codes and scales, ragged boxes, and boxes that begin with a group."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.kernels import quantize
from v3bench.model_ref.formats import E4M3, E5M2, FORMATS
from v3bench.model_ref.scaling import GUARD, RELEASED, Scaling, along_groups


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Random numbers of very different magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    return x * torch.exp2(torch.randint(-12, 12, (rows, 1), generator=generator).float())


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("shape", [(3, 256), (130, 300), (1, 1), (257, 128)])
def test_v3_s_boxes_give_the_kernels_codes_and_scales_bit_for_bit(shape, power_of_two):
    x = matrix(*shape)
    for box, reference in (((1, 128), quantize.reference_tiles), ((128, 128), quantize.reference_blocks)):
        codes, scales = Scaling(E4M3, box, RELEASED, power_of_two).codes(x)
        want, want_scales = reference(x, power_of_two=power_of_two)
        assert torch.equal(codes, want.float())
        assert torch.equal(scales, want_scales)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 40), st.integers(0, 40), st.tuples(st.sampled_from([0, 1, 3, 16]), st.sampled_from([0, 1, 5, 16])),
    st.sampled_from(list(FORMATS.values())), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_what_is_left_is_codes_times_scales_and_within_half_a_step(rows, columns, box, form, power_of_two, seed):
    x = matrix(rows, columns, seed) if rows * columns else torch.zeros(rows, columns)
    scaling = Scaling(form, box, power_of_two=power_of_two)
    y = scaling(x)
    assert y.shape == x.shape
    if not x.numel():
        return
    codes, scales = scaling.codes(x)
    assert float(codes.abs().max() if codes.numel() else 0) <= form.largest
    r, c = scaling.sides(x)
    spread = scales.repeat_interleave(r, 0)[:rows].repeat_interleave(c, 1)[:, :columns]
    assert torch.equal(y, codes * spread)
    allowed = torch.maximum(x.abs() * form.half_step, spread * form.least / 2) * (1 + 2**-20)
    assert bool(((y - x).abs() <= allowed).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_a_box_that_holds_nan_or_infinity_becomes_nan_throughout_and_no_other(bad, power_of_two):
    x = matrix(4, 256)
    x[1, 130] = bad
    y = Scaling(E4M3, (1, 128), power_of_two=power_of_two)(x)
    wrong = torch.zeros(4, 256, dtype=torch.bool)
    wrong[1, 128:] = True
    assert torch.equal(y.isnan(), wrong)


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
@pytest.mark.parametrize("power_of_two", [False, True])
def test_values_of_any_finite_size_stay_finite(form, power_of_two):
    scaling = Scaling(form, (1, 128), power_of_two=power_of_two)
    for power in (-140, -100, -20, 60, 105, 127):
        x = matrix(2, 128).sign() * torch.linspace(0.5, 1, 128) * 2.0**power
        codes, scales = scaling.codes(x)
        assert bool(scaling(x).isfinite().all())
        assert torch.equal(scaling(x), codes * scales)


def test_zeros_and_subnormals_stay_finite():
    for x in (torch.zeros(2, 128), torch.full((2, 128), 1e-42), torch.full((2, 128), 2.0**-126)):
        for power_of_two in (False, True):
            y = Scaling(E4M3, (1, 128), power_of_two=power_of_two)(x)
            assert bool(y.isfinite().all())
            assert float((y - x).abs().max()) <= GUARD / 448 * 2**-9


def test_the_released_clamp_loses_small_gradients_and_the_guard_does_not():
    dy = torch.full((1, 128), 1e-10)
    assert not Scaling(E4M3, (1, 128), RELEASED)(dy).any()
    assert torch.allclose(Scaling(E4M3, (1, 128))(dy), dy, rtol=2**-4)


def test_scales_of_a_power_of_two_are_at_most_twice_as_large():
    x = matrix(64, 256)
    plain, power = (Scaling(E5M2, (1, 128), power_of_two=p).codes(x)[1] for p in (False, True))
    assert bool(((power >= plain) & (power < 2 * plain)).all())
    assert torch.equal(torch.exp2(power.log2().round()), power)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 3), st.sampled_from([1, 3, 4]))
def test_boxes_of_rows_begin_anew_with_each_group(lengths, rest, columns):
    offsets = torch.tensor(lengths).cumsum(0).int()
    x = matrix(sum(lengths) + rest, 8, seed=sum(lengths))
    scaling = Scaling(E4M3, (4, columns))
    parts = [scaling(part) for part in x[: sum(lengths)].split(lengths)]
    assert torch.equal(along_groups(scaling, x, offsets), torch.cat([*parts, torch.zeros(rest, 8)]))
