"""SwiGLU in Triton, forward and backward, with swiglu.py's signature.

    reference                          swiglu.reference, the definition
    kernel_forward, kernel_backward    Triton
    swiglu                             launcher

M rows  F columns of the result
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
from v3bench.kernels.launch import Launch, cdiv, run
from v3bench.kernels.sigmoid import sigmoid
from v3bench.kernels.swiglu import reference as reference

NEEDS = checks.Needs((8, 0), "the least that Triton compiles for")
WIDE = (torch.bfloat16, torch.float16, torch.float32)
BLOCK, WARPS = 1024, 4  # eight columns a thread: 16 bytes of each half


@triton.jit
def halves(gate_up_ptr, row, F, gate_up_row, columns):  # type: ignore[no-untyped-def]
    """gate and up of one row, float32."""
    at = gate_up_ptr + row * gate_up_row + columns
    gate = tl.load(at, mask=columns < F, other=0.0).to(tl.float32)
    return gate, tl.load(at + F, mask=columns < F, other=0.0).to(tl.float32)


@triton.jit
def kernel_forward(gate_up_ptr, y_ptr, F, gate_up_row, y_row, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program: BLOCK columns of one row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate, up = halves(gate_up_ptr, row, F, gate_up_row, columns)
    y = narrow(gate * sigmoid(gate) * up, y_ptr.dtype.element_ty)
    tl.store(y_ptr + row * y_row + columns, y, mask=columns < F)


@triton.jit
def kernel_backward(  # type: ignore[no-untyped-def]
    grad_ptr, gate_up_ptr, d_ptr, y_ptr, F, grad_row, gate_up_row, d_row, y_row, BLOCK: tl.constexpr
):
    """With s = sigmoid(gate): dgate = grad up s (1 + gate (1 - s)), dup = grad gate s; y besides where it is given."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate, up = halves(gate_up_ptr, row, F, gate_up_row, columns)
    grad = tl.load(grad_ptr + row * grad_row + columns, mask=columns < F, other=0.0).to(tl.float32)
    s = sigmoid(gate)
    if y_ptr is not None:
        tl.store(y_ptr + row * y_row + columns, narrow(gate * s * up, y_ptr.dtype.element_ty), mask=columns < F)
    grad *= s
    at = d_ptr + row * d_row + columns
    tl.store(at, narrow(grad * up * (1.0 + gate * (1.0 - s)), d_ptr.dtype.element_ty), mask=columns < F)
    tl.store(at + F, narrow(grad * gate, d_ptr.dtype.element_ty), mask=columns < F)


def launches_forward(gate_up: Tensor, y: Tensor) -> tuple[Launch, ...]:
    """gate_up (M, 2F); y (M, F) is written."""
    (M, F), block = y.shape, min(BLOCK, triton.next_power_of_2(y.shape[1]))
    args = {
        "gate_up_ptr": gate_up, "y_ptr": y, "F": F, "gate_up_row": gate_up.stride(0), "y_row": y.stride(0),
        "BLOCK": block,
    }  # fmt: skip
    return (Launch(kernel_forward, (M, cdiv(F, block)), args, {"num_warps": max(block * WARPS // BLOCK, 1)}),)


def launches_backward(grad: Tensor, gate_up: Tensor, d: Tensor, y: Tensor | None) -> tuple[Launch, ...]:
    """grad (M, F), gate_up (M, 2F); d (M, 2F), the gradient of gate_up, is written, and y (M, F) where it is given."""
    (M, F), block = grad.shape, min(BLOCK, triton.next_power_of_2(grad.shape[1]))
    args = {
        "grad_ptr": grad, "gate_up_ptr": gate_up, "d_ptr": d, "y_ptr": y, "F": F, "grad_row": grad.stride(0),
        "gate_up_row": gate_up.stride(0), "d_row": d.stride(0), "y_row": 0 if y is None else y.stride(0),
        "BLOCK": block,
    }  # fmt: skip
    return (Launch(kernel_backward, (M, cdiv(F, block)), args, {"num_warps": max(block * WARPS // BLOCK, 1)}),)


def swiglu(gate_up: Tensor) -> Tensor:
    """gate_up (..., 2F), the gate half first -> (..., F), as ``reference``; differentiable once. Raises ValueError."""
    checks.tensors("swiglu", gate_up=gate_up)
    flat = gate_up.reshape(gate_up.shape[:-1].numel(), gate_up.shape[-1]) if gate_up.ndim else gate_up
    checks.tensor("swiglu", "gate_up", flat, WIDE, (None, None), aligned=False)
    checks.device("swiglu", NEEDS, gate_up)
    if gate_up.shape[-1] % 2 or not gate_up.shape[-1]:
        columns = gate_up.shape[-1]
        raise ValueError(f"swiglu: gate_up has {columns} columns, expected a gate half and an up half of one width")
    if torch.is_grad_enabled() and gate_up.requires_grad:
        y: Tensor = SwiGLU.apply(flat)
    else:
        y = activated(flat)
    return y.view(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


def activated(gate_up: Tensor) -> Tensor:
    """``swiglu`` of checked rows (M, 2F), without a gradient."""
    y = torch.empty(len(gate_up), gate_up.shape[1] // 2, dtype=gate_up.dtype, device=gate_up.device)
    if not gate_up.is_meta:
        run(launches_forward(gate_up, y))
    return y


class SwiGLU(torch.autograd.Function):
    """Keeps the input; the sigmoid is cheaper to compute again than to keep."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return activated(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return gradient(grad, *ctx.saved_tensors)


def gradient(grad: Tensor, gate_up: Tensor, y: Tensor | None = None) -> Tensor:
    """grad (M, F), gate_up (M, 2F) -> the gradient of gate_up; ``activated`` is written to y (M, F) if given."""
    d, grad = torch.empty(gate_up.shape, dtype=gate_up.dtype, device=gate_up.device), grad.contiguous()
    if not d.is_meta:
        run(launches_backward(grad, gate_up, d, y))
    return d
