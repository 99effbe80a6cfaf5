"""Grouped GEMM: every path gives the loop's products, and gradients for all experts."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels.grouped_gemm import grouped_gemm, reference, torch_has_it

OFFSETS = torch.tensor([0, 3, 3, 10, 11], dtype=torch.int32)  # the first and third expert have no rows
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("K", "N"), [(16, 24), (7, 9)])
def test_equals_the_loop(dtype: torch.dtype, K: int, N: int) -> None:
    x, w = torch.randn(11, K).to(dtype), torch.randn(5, N, K).to(dtype)
    torch.testing.assert_close(grouped_gemm(x, w, OFFSETS), reference(x, w, OFFSETS))


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("expanded", [False, True])
def test_gradients_are_the_loops(dtype: torch.dtype, expanded: bool) -> None:
    x, w = torch.randn(11, 16).to(dtype).requires_grad_(), torch.randn(5, 24, 16).to(dtype).requires_grad_()
    grad = torch.randn(1, 24).to(dtype).expand(11, 24) if expanded else torch.randn(11, 24).to(dtype)
    got = torch.autograd.grad(grouped_gemm(x, w, OFFSETS), (x, w), grad)
    want = torch.autograd.grad(reference(x, w, OFFSETS), (x, w), grad)
    torch.testing.assert_close(got, want)
    assert torch.equal(got[1][2], torch.zeros(24, 16).to(dtype))


def test_no_rows_at_all() -> None:
    nothing = torch.zeros(5, dtype=torch.int32)
    for dtype in DTYPES:
        out = grouped_gemm(torch.zeros(0, 16).to(dtype), torch.zeros(5, 8, 16).to(dtype), nothing)
        assert out.shape == (0, 8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_meta_tensors_get_shape_and_gradients(dtype: torch.dtype) -> None:
    x = torch.empty(11, 7, device="meta", dtype=dtype, requires_grad=True)
    w = torch.empty(5, 9, 7, device="meta", dtype=dtype, requires_grad=True)
    out = grouped_gemm(x, w, torch.empty(5, dtype=torch.int32, device="meta"))
    assert (out.shape, out.dtype) == ((11, 9), dtype)
    out.sum().backward()
    assert x.grad is not None
    assert w.grad is not None
    assert (x.grad.shape, w.grad.shape) == (x.shape, w.shape)


def test_torchs_own_is_used_where_rows_are_aligned() -> None:
    assert torch_has_it(torch.empty(3, 8), 12)
    assert not torch_has_it(torch.empty(3, 7), 12)
    assert not torch_has_it(torch.empty(3, 8), 10)
    assert not torch_has_it(torch.empty(3, 8, dtype=torch.float64), 12)
