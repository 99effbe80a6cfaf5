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
    if x.device.type == "cuda" and x.dtype == torch.bfloat16:
        return F.grouped_mm(x, w.transpose(1, 2), offs=offsets)
    return Looped.apply(x, w, offsets)


class Looped(torch.autograd.Function):
    """A product per expert, each written to its place: any float dtype, any device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(x, w, offsets)
        out = x.new_empty(x.shape[0], w.shape[1])
        for e, rows in segments(offsets):
            torch.mm(x[rows], w[e].T, out=out[rows])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, w, offsets = ctx.saved_tensors
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dw = torch.zeros_like(w) if ctx.needs_input_grad[1] else None
        for e, rows in segments(offsets):
            if dx is not None:
                torch.mm(grad[rows], w[e], out=dx[rows])
            if dw is not None:
                torch.mm(grad[rows].T, x[rows], out=dw[e])
        return dx, dw, None


def segments(offsets: Tensor) -> list[tuple[int, slice]]:
    """(expert, its rows) for every expert that has rows; none on the meta device."""
    if offsets.is_meta:
        return []
    ends = offsets.tolist()
    return [(e, slice(start, end)) for e, (start, end) in enumerate(zip([0, *ends], ends, strict=False)) if end > start]
