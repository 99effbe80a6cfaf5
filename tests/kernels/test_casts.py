"""Conversions under the interpreter give the bits that torch gives, for every code and a sweep of every magnitude."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from v3bench.kernels import casts, checks

pytestmark = pytest.mark.skipif(not checks.interpreted(), reason="the detours are the interpreter's")


@triton.jit
def convert(x_ptr, y_ptr, WHICH: tl.constexpr, N: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, N)
    x = tl.load(x_ptr + at)
    if WHICH == "to_e4m3":
        y = casts.to_e4m3(x)
    elif WHICH == "from_e4m3":
        y = casts.from_e4m3(x)
    else:
        y = casts.narrow(x, y_ptr.dtype.element_ty)
    tl.store(y_ptr + at, y)


@triton.jit
def largest(x_ptr, y_ptr, N: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.store(y_ptr, casts.magnitude(tl.load(x_ptr + tl.arange(0, N)), 0))


def converted(x: torch.Tensor, dtype: torch.dtype, which: str) -> torch.Tensor:
    y = torch.empty(x.shape, dtype=dtype)
    convert[(1,)](x, y, WHICH=which, N=x.numel())
    return y


def sweep() -> torch.Tensor:
    """16,384 values over all magnitudes of e4m3 and beyond, its ties and their neighbours, and what is not finite."""
    x = torch.randn(13000) * torch.exp2(torch.randint(-14, 11, (13000,)).float())
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    codes = codes[codes.isfinite()].sort().values
    ties = (codes[1:] + codes[:-1]) / 2
    near = torch.cat((ties, ties.nextafter(torch.tensor(9e9)), ties.nextafter(torch.tensor(-9e9)), codes))
    odd = torch.tensor([0.0, 464, 465, 479, 480, 500, 1e9, -1e9, float("inf"), -float("inf"), float("nan")])
    x = torch.cat((x, near, odd))
    return torch.cat((x, torch.ones(16384 - len(x))))


def test_to_e4m3_rounds_as_torch_does_and_saturates() -> None:
    x = sweep()
    got = converted(x, torch.float8_e4m3fn, "to_e4m3").float()
    want = x.clamp(-448, 448).to(torch.float8_e4m3fn).float()
    assert torch.equal(got.nan_to_num(999), want.nan_to_num(999))
    assert got.isnan().sum() == 1


def test_from_e4m3_is_exact_and_keeps_nan() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    got = converted(codes, torch.float32, "from_e4m3")
    assert torch.equal(got.nan_to_num(999), codes.float().nan_to_num(999))
    assert got.isnan().sum() == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_rounds_to_nearest_even(dtype: torch.dtype) -> None:
    x = sweep().clamp(-6e4, 6e4)  # within float16
    assert torch.equal(converted(x, dtype, "narrow").float().nan_to_num(9e9), x.to(dtype).float().nan_to_num(9e9))


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), -float("inf")])
def test_magnitude_sees_what_is_not_finite(bad: float | None) -> None:
    x, y = torch.randn(64), torch.empty(1)
    if bad is not None:
        x[17] = bad
    largest[(1,)](x, y, N=64)
    assert y.isnan().item() == (bad is not None)
    assert bad is not None or y.item() == x.abs().max().item()


def test_the_interpreter_still_needs_the_detours() -> None:
    """When this fails, Triton has mended its casts, and the detours can go."""

    @triton.jit
    def raw(x_ptr, y_ptr, N: tl.constexpr):  # type: ignore[no-untyped-def]
        tl.store(y_ptr + tl.arange(0, N), tl.load(x_ptr + tl.arange(0, N)).to(tl.float8e4nv))

    x = sweep()
    y = torch.empty(x.shape, dtype=torch.float8_e4m3fn)
    raw[(1,)](x, y, N=x.numel())
    assert not torch.equal(
        y.float().nan_to_num(999), x.clamp(-448, 448).to(torch.float8_e4m3fn).float().nan_to_num(999)
    )
