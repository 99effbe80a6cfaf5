"""Emulated formats: the values torch's own types have, ties, subnormals, overflow, and what a property must hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.model_ref.formats import E4M1, E4M2, E4M3, E5M2, E5M6, FORMATS, Format, cast, rounded

OWN = [(E4M3, torch.float8_e4m3fn), (E5M2, torch.float8_e5m2)]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, NaN equal to any NaN."""
    return bool(((a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("form, dtype", OWN, ids=lambda value: str(value))
def test_every_bfloat16_is_cast_as_torch_does(form, dtype):
    x = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    assert same_bits(cast(x, form), x.to(dtype).float())


@pytest.mark.parametrize("form, dtype", OWN, ids=lambda value: str(value))
def test_random_float32_are_cast_as_torch_does(form, dtype):
    generator = torch.Generator().manual_seed(5)
    bits = torch.randint(-(2**31), 2**31, (10**7,), generator=generator)
    assert same_bits(cast(bits.int().view(torch.float32), form), bits.int().view(torch.float32).to(dtype).float())
    near = torch.randn(10**6, generator=generator) * torch.exp2(torch.randint(-20, 12, (10**6,), generator=generator))
    assert same_bits(cast(near, form), near.to(dtype).float())


@pytest.mark.parametrize("form, dtype", OWN, ids=lambda value: str(value))
def test_sizes_are_torch_s(form, dtype):
    info = torch.finfo(dtype)
    assert (form.bits, form.largest, form.least_normal, form.half_step) == (
        info.bits, info.max, info.smallest_normal, info.eps / 2,
    )  # fmt: skip


def values(form: Format) -> torch.Tensor:
    """Every positive finite value of a format, made from its definition."""
    mantissas = torch.arange(2**form.mantissa, dtype=torch.float64) / 2**form.mantissa
    low = mantissas * form.least_normal
    exponents = torch.arange(1 - form.bias, form.bias + 2, dtype=torch.float64)
    high = ((1 + mantissas) * torch.exp2(exponents)[:, None]).flatten()
    every = torch.cat((low, high))
    return every[every <= form.largest]


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_a_value_between_two_neighbours_becomes_the_nearer_and_a_tie_the_even_one(form):
    grid = values(form)
    assert torch.equal(cast(grid, form), grid)
    assert torch.equal(cast(-grid, form), -grid)
    low, high = grid[:-1], grid[1:]
    assert torch.equal(cast(low + (high - low) * 0.499, form), low)
    assert torch.equal(cast(low + (high - low) * 0.501, form), high)
    even = torch.where(torch.arange(len(low)) % 2 == 0, low, high)
    assert torch.equal(cast((low + high) / 2, form), even)


def test_controls_have_fewer_mantissa_bits_over_the_same_exponents():
    assert [form.largest for form in (E4M3, E4M2, E4M1)] == [448, 384, 256]
    assert len({form.least_normal for form in (E4M3, E4M2, E4M1)}) == 1
    assert (E5M6.bits, E5M6.largest) == (12, 65024)


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_beyond_the_largest_a_finite_format_saturates_and_others_overflow(form):
    x = torch.tensor([form.largest * 2, float("inf"), -float("inf"), float("nan"), -0.0])
    y = cast(x, form)
    top = form.largest if form.finite else float("inf")
    assert y[:3].tolist() == [top, top, -top]
    assert y[3].isnan()
    assert torch.signbit(y[4])


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-400, 400, width=32),
    st.sampled_from(list(FORMATS.values())),
)
def test_rounding_errs_by_half_a_step_at_most(x, form):
    value = torch.tensor([x], dtype=torch.float64).clamp(-form.largest, form.largest)
    assert torch.equal(rounded(value, form), cast(value, form))
    assert abs(float(cast(value, form)) - float(value)) <= max(abs(float(value)) * form.half_step, form.least / 2)
