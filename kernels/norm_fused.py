"""RMSNorm in Triton, forward and backward, with norm.py's signature.

    reference                                              norm.reference, the definition
    kernel_forward, kernel_backward, kernel_sum_strips     Triton
    rms_norm                                               launcher

The gradient of the weight is a sum over all rows: STRIPS programs each sum their share in float32, then one kernel adds
the partial sums in order. Their number does not depend on the GPU, so that neither does the result.

M rows  D columns
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from v3bench.kernels import checks
from v3bench.kernels.casts import narrow
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.norm import reference as reference

NEEDS = checks.Needs((8, 0), "the least that Triton compiles for")
WIDE = (torch.bfloat16, torch.float16, torch.float32)
MOST = 16384  # columns: a program holds a whole row in registers
STRIPS = 264  # two for each of an H200's 132 SMs


@triton.jit
def kernel_forward(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, y_ptr, rstd_ptr, D, x_row, y_row, eps, BLOCK: tl.constexpr
):
    """One program: one row; 1/rms is kept where it is asked for."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * x_row + columns, mask=columns < D, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=columns < D, other=0.0, eviction_policy="evict_last").to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, 0) / D + eps)
    tl.store(y_ptr + row * y_row + columns, narrow(x * rstd * weight, y_ptr.dtype.element_ty), mask=columns < D)
    if rstd_ptr is not None:
        tl.store(rstd_ptr + row, rstd)


@triton.jit
def kernel_backward(  # type: ignore[no-untyped-def]
    grad_ptr, x_ptr, weight_ptr, rstd_ptr, dx_ptr, strips_ptr, M, D, grad_row, x_row, dx_row,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: a strip of rows. With n = x / rms: dx = (g w - n mean(g w n)) / rms; dw is the sum of g n."""
    program, columns = tl.program_id(0), tl.arange(0, BLOCK)
    share = tl.cdiv(M, tl.num_programs(0))
    weight = tl.load(weight_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    first = (program * share).to(tl.int64)
    for own in tl.range(0, tl.minimum(share, M - program * share), num_stages=STAGES):
        at = first + own
        g = tl.load(grad_ptr + at * grad_row + columns, mask=columns < D, other=0.0).to(tl.float32)
        n = tl.load(x_ptr + at * x_row + columns, mask=columns < D, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + at)
        n *= rstd
        total += g * n
        g *= weight
        dx = (g - n * (tl.sum(g * n, 0) / D)) * rstd
        tl.store(dx_ptr + at * dx_row + columns, narrow(dx, dx_ptr.dtype.element_ty), mask=columns < D)
    tl.store(strips_ptr + program.to(tl.int64) * D + columns, total, mask=columns < D)


@triton.jit
def kernel_sum_strips(strips_ptr, dw_ptr, S, D, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program: COLUMNS columns of the sum of S partial sums."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, S, ROWS):
        strip = first + tl.arange(0, ROWS)
        inside = (strip < S)[:, None] & (columns < D)[None, :]
        total += tl.load(strips_ptr + strip[:, None] * D + columns[None, :], mask=inside, other=0.0)
    dw = narrow(tl.sum(total, 0), dw_ptr.dtype.element_ty)
    tl.store(dw_ptr + columns, dw, mask=columns < D)


def launches_forward(
    x: Tensor, weight: Tensor, y: Tensor, rstd: Tensor | None, *, eps: float, config: Config
) -> tuple[Launch, ...]:
    """x (M, D), weight (D); y (M, D) and, where given, rstd (M) are written."""
    (M, D), (blocks, options) = x.shape, split(config)
    args = {
        "x_ptr": x, "weight_ptr": weight, "y_ptr": y, "rstd_ptr": rstd, "D": D, "x_row": x.stride(0),
        "y_row": y.stride(0), "eps": eps, "BLOCK": triton.next_power_of_2(D), **blocks,
    }  # fmt: skip
    return (Launch(kernel_forward, (M,), args, options),)


def launches_backward(
    grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, dx: Tensor, strips: Tensor, dw: Tensor, *, config: Config
) -> tuple[Launch, ...]:
    """grad and x (M, D), weight (D), rstd (M); dx (M, D) and dw (D) are written; strips (S, D) is scratch."""
    (M, D), (blocks, options) = x.shape, split(config)
    args = {
        "grad_ptr": grad, "x_ptr": x, "weight_ptr": weight, "rstd_ptr": rstd, "dx_ptr": dx, "strips_ptr": strips,
        "M": M, "D": D, "grad_row": grad.stride(0), "x_row": x.stride(0), "dx_row": dx.stride(0),
        "BLOCK": triton.next_power_of_2(D), "STAGES": 3, **blocks,
    }  # fmt: skip
    sums = {"strips_ptr": strips, "dw_ptr": dw, "S": len(strips), "D": D, "ROWS": 32, "COLUMNS": 64}
    return (
        Launch(kernel_backward, (len(strips),), args, options),
        Launch(kernel_sum_strips, (cdiv(D, 64),), sums, {"num_warps": 4}),
    )


def warps(D: int, columns: int) -> Config:
    """A warp for every so many columns of a row, 16 at most."""
    return {"num_warps": min(max(triton.next_power_of_2(D) // columns, 1), 16)}


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D), weight (D) -> as ``reference``, in x's dtype; differentiable once. Raises ValueError."""
    checks.tensors("rms_norm", x=x)
    flat = x.reshape(x.shape[:-1].numel(), x.shape[-1]) if x.ndim else x
    checks.tensor("rms_norm", "x", flat, WIDE, (None, None), aligned=False)
    checks.tensor("rms_norm", "weight", weight, WIDE, flat.shape[1:], aligned=False)
    checks.device("rms_norm", NEEDS, x, weight)
    if not 1 <= x.shape[-1] <= MOST:
        raise ValueError(f"rms_norm: x has rows of {x.shape[-1]} columns, expected 1 to {MOST}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"rms_norm: eps is {eps}, expected a finite number of at least 0")
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        y: Tensor = RMSNorm.apply(flat, weight, eps)
    else:
        y = normalised(flat, weight, eps, None)
    return y.view(x.shape)


def normalised(x: Tensor, weight: Tensor, eps: float, rstd: Tensor | None) -> Tensor:
    """``rms_norm`` of checked rows (M, D), without a gradient; rstd (M) is written where it is given."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not x.is_meta:
        run(launches_forward(x, weight, y, rstd, eps=eps, config=warps(x.shape[1], 1024)))
    return y


class RMSNorm(torch.autograd.Function):
    """Keeps x, the weight and each row's 1/rms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rstd = torch.empty(len(x), dtype=torch.float32, device=x.device)
        y = normalised(x, weight, eps, rstd)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return *gradients(grad, *ctx.saved_tensors), None


def gradients(grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """grad and x (M, D), weight (D), each row's 1/rms (M) -> the gradients of x and of the weight."""
    (M, D), grad = x.shape, grad.contiguous()
    dx, dw = torch.empty(M, D, dtype=x.dtype, device=x.device), torch.empty_like(weight)
    strips = torch.empty(min(M, STRIPS), D, dtype=torch.float32, device=x.device)
    if not M:
        return dx, dw.zero_()
    if not x.is_meta:
        run(launches_backward(grad, x, weight, rstd, dx, strips, dw, config=warps(D, 512)))
    return dx, dw
