"""The Triton kernel of MLA decode in float32 (kernels/paged_mla.py), without tensor cores: for tests and small models.

Exact products read their operands from registers, and what a product of 512 channels needs at once does not fit: so
channels come PART at a time, and the queries anew for every tile, as what stands before a loop is kept through it.
"""

from __future__ import annotations

import triton
import triton.language as tl
from v3bench.kernels.casts import narrow, operand
from v3bench.kernels.fp8_tiles import joined
from v3bench.kernels.paged_mla_kernels import LN2, NEVER, doubt, place, span


@triton.jit
def kernel_exact(  # type: ignore[no-untyped-def]
    q_ptr, q_b, q_row, c_ptr, table_ptr, lengths_ptr, out_ptr, lse_ptr,
    L, X, table_row, rows, H, S, slope, page, out_split, lse_split,
    C: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, PAGE: tl.constexpr, TOKEN: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """As ``kernel_many``; every tile is loaded under a mask."""
    b = tl.program_id(2)
    first, _, last, length = span(lengths_ptr, b, L, S, BLOCK_N)
    row = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    limit = length - S + 1 + row // H
    channel, turned, slot = tl.arange(0, PART), tl.arange(0, RP), tl.arange(0, BLOCK_N)
    q_at = q_ptr + b.to(tl.int64) * q_b + row[:, None] * q_row
    here = (row < rows)[:, None]
    m = tl.full((BLOCK_H,), NEVER, tl.float32)
    l = tl.zeros((BLOCK_H,), tl.float32) + doubt(length, lengths_ptr, table_ptr, b, table_row, L, X, PAGE)
    sums = ()
    for _ in tl.static_range(PARTS):
        sums = joined(sums, tl.zeros((BLOCK_H, PART), tl.float32))
    for n in tl.range(first, last, BLOCK_N):
        x, y = place(table_ptr, b, table_row, n, PAGE)
        valid = ((n + slot < last) & (x >= 0) & (x < X))[:, None]
        at = c_ptr + x.to(tl.int64) * page + (y + slot)[:, None] * TOKEN
        # "volatile": not moved out of the loop.
        q = tl.load(q_at + C + turned[None, :], mask=here & (turned < R)[None, :], other=0.0, volatile=True)
        r = tl.load(at + C + turned[None, :], mask=valid & (turned < R)[None, :], other=0.0)
        s = tl.dot(operand(q), operand(r).T, input_precision="ieee")
        parts = ()
        for i in tl.static_range(PARTS):
            some = (i * PART + channel)[None, :]
            q = tl.load(q_at + some, mask=here & (some < C), other=0.0, volatile=True)
            c = tl.load(at + some, mask=valid & (some < C), other=0.0)
            s = tl.dot(operand(q), operand(c).T, s, input_precision="ieee")
            parts = joined(parts, c)
        s = tl.where((n + slot)[None, :] < limit[:, None], s, NEVER)
        new = tl.maximum(m, tl.max(s, 1) * slope)
        base = tl.where(new == NEVER, 0.0, new)
        p = tl.exp2(s * slope - base[:, None])
        keep = tl.exp2(m - base)
        m, l = new, l * keep + tl.sum(p, 1)
        p = operand(narrow(p, c_ptr.dtype.element_ty))
        added = ()
        for i in tl.static_range(PARTS):
            added = joined(added, tl.dot(p, operand(parts[i]), sums[i] * keep[:, None], input_precision="ieee"))
        sums = added
    total = tl.where(l == 0, 1.0, l)
    out = out_ptr + tl.program_id(1).to(tl.int64) * out_split + (b.to(tl.int64) * rows + row)[:, None] * C
    for i in tl.static_range(PARTS):
        some = (i * PART + channel)[None, :]
        tl.store(out + some, narrow(sums[i] / total[:, None], out_ptr.dtype.element_ty), mask=here & (some < C))
    at = tl.program_id(1).to(tl.int64) * lse_split + b.to(tl.int64) * rows + row
    tl.store(lse_ptr + at, tl.where(l == 0, NEVER, (m + tl.log2(total)) * LN2), mask=row < rows)
