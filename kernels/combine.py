"""Joining the parts of a softmax that was split over its keys (flash-decoding).

    reference            the definition
    kernel               Triton
    launches             as a launch, for the kernels that split

Part p of row r has its weighted sum of values o_p, already divided by its own sum of exponentials, and the logarithm
lse_p of that sum: the whole is sum_p exp(lse_p - lse) o_p with lse = log sum_p exp(lse_p). The parts are added in one
order, so that the result is the same at every run. A part without keys has lse -inf and o 0.

P parts  R rows (queries times heads)  V value width
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels.casts import narrow
from v3bench.kernels.launch import Launch, cdiv

COLUMNS, STEP, WARPS = 32, 32, 4  # of one program: columns of the value, parts added at a time
LOG2E, LN2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)


def reference(parts: Tensor, parts_lse: Tensor) -> tuple[Tensor, Tensor]:
    """parts (P, R, V), parts_lse (P, R) -> (R, V), lse (R)."""
    lse = parts_lse.logsumexp(0)
    weights = (parts_lse - lse).exp().masked_fill(lse == -torch.inf, 0)
    return torch.einsum("pr,prv->rv", weights, parts), lse


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    parts_ptr, parts_lse_ptr, out_ptr, lse_ptr, P, R, V, PARTS: tl.constexpr, STEP: tl.constexpr, COLUMNS: tl.constexpr
):
    """One program: COLUMNS channels of one row; PARTS is P or more, a power of two."""
    row, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS
    part = tl.arange(0, PARTS)
    lse = tl.load(parts_lse_ptr + part.to(tl.int64) * R + row, mask=part < P, other=float("-inf"))
    most = tl.max(lse, 0)
    top = tl.where(most == float("-inf"), 0.0, most)
    total = tl.sum(tl.exp2((lse - top) * LOG2E), 0)  # NaN where any part is
    column = first + tl.arange(0, COLUMNS)
    acc = tl.zeros([COLUMNS], tl.float32)
    for start in tl.range(0, P, STEP):
        some = start + tl.arange(0, STEP)
        at = some.to(tl.int64) * R + row
        weight = tl.exp2((tl.load(parts_lse_ptr + at, mask=some < P, other=float("-inf")) - top) * LOG2E)
        inside = (some < P)[:, None] & (column < V)[None, :]
        o = tl.load(parts_ptr + at[:, None] * V + column[None, :], mask=inside, other=0.0)
        acc += tl.sum(weight[:, None] * o, 0)
    total = tl.where(total == 0.0, 1.0, total)  # nothing was seen: 0, and a lse of -inf
    acc = acc / total
    tl.store(out_ptr + row * V + column, narrow(acc, out_ptr.dtype.element_ty), mask=column < V)
    if first == 0:
        tl.store(lse_ptr + row, most + tl.log2(total) * LN2)


def launches(parts: Tensor, parts_lse: Tensor, out: Tensor, lse: Tensor) -> tuple[Launch, ...]:
    """parts (P, R, V) and parts_lse (P, R) float32 -> out (R, V) of any floating dtype, lse (R) float32; contiguous."""
    P, R, V = parts.shape
    args = {
        "parts_ptr": parts, "parts_lse_ptr": parts_lse, "out_ptr": out, "lse_ptr": lse, "P": P, "R": R, "V": V,
        "PARTS": max(2, triton.next_power_of_2(P)), "STEP": STEP, "COLUMNS": COLUMNS,
    }  # fmt: skip
    return (Launch(kernel, (R, cdiv(V, COLUMNS)), args, {"num_warps": WARPS}),)
