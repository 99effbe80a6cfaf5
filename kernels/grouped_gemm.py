"""One matrix product per expert over rows sorted by expert: the FLOPs of DeepSeekMoE.

    reference      the definition, a loop
    grouped_gemm   launcher: torch's grouped GEMM where it exists, else a loop over the experts that have rows

T rows (a token appears once per chosen expert)  E experts  K input width  N output width.
The output shape depends on no value, so a meta tensor gets its shape without weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.kernels.operation import operation


def reference(x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
    """x (T, K), w (E, N, K), offsets int32 (E): the end of each expert's rows -> (T, N)."""
    out = x.new_zeros(x.shape[0], w.shape[1])
    start = 0
    for e, end in enumerate(offsets.tolist()):
        out[start:end] = x[start:end] @ w[e].T
        start = end
    return out


@operation
def grouped_gemm(x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
    """As ``reference``; differentiable in x and w."""
    return GroupedGemm.apply(x, w, offsets) if torch.is_grad_enabled() else product(x, w, offsets)


class GroupedGemm(torch.autograd.Function):
    """Its backward takes any gradient, also an expanded one, which torch's own grouped GEMM refuses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(x, w, offsets)
        return product(x, w, offsets)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, w, offsets = ctx.saved_tensors
        grad = grad.contiguous()
        dx = product(grad, w.transpose(1, 2), offsets) if ctx.needs_input_grad[0] else None
        dw = outer(grad, x, offsets) if ctx.needs_input_grad[1] else None
        return dx, dw, None


def product(x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
    """x (T, K), w (E, N, K) -> (T, N), without a gradient."""
    if torch_has_it(x, w.shape[1]):
        return F.grouped_mm(x, w.transpose(1, 2), offs=offsets)
    out = x.new_empty(x.shape[0], w.shape[1])
    for e, rows in segments(offsets):
        torch.mm(x[rows], w[e].T, out=out[rows])
    return out


def outer(y: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """y (T, N), x (T, K) -> (E, N, K): each expert's own y' x, zero for an expert without rows."""
    if torch_has_it(x, y.shape[1]):
        return F.grouped_mm(y.T, x, offs=offsets)
    out = x.new_zeros(len(offsets), y.shape[1], x.shape[1])
    for e, rows in segments(offsets):
        torch.mm(y[rows].T, x[rows], out=out[e])
    return out


def torch_has_it(x: Tensor, width: int) -> bool:
    """Whether torch's grouped GEMM takes x (T, K) for a result (T, width): rows must be multiples of 16 bytes."""
    dtypes = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.bfloat16,)}.get(x.device.type, ())
    return x.dtype in dtypes and x.shape[1] * x.itemsize % 16 == 0 and width * x.itemsize % 16 == 0


def segments(offsets: Tensor) -> list[tuple[int, slice]]:
    """(expert, its rows) for every expert that has rows; none on the meta device."""
    if offsets.is_meta:
        return []
    ends = offsets.tolist()
    return [(e, slice(start, end)) for e, (start, end) in enumerate(zip([0, *ends], ends, strict=False)) if end > start]
