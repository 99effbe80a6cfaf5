"""Triton kernels of MLA decode (kernels/paged_mla.py): one tile of the cache is key and value at once.

    kernel_many   query rows are the rows of the products: 64 at a time, warpgroup instructions
    kernel_few    tokens are the rows, so that 16 or 32 query rows still run on warpgroup instructions

A program takes one block of query rows (S queries times H heads, one row each) over one split of the tokens of one
sequence. Whole tiles, which every query sees, come by the bulk copy engine; the rest is loaded under a mask, as unused
slots may hold anything, and NaN times a weight of zero is NaN.
"""

from __future__ import annotations

import triton
import triton.language as tl
from v3bench.kernels.casts import from_e4m3, narrow, operand

LN2 = tl.constexpr(0.6931471805599453)
NEVER = tl.constexpr(float("-inf"))


@triton.jit
def span(lengths_ptr, b, L, S, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    """This split's tokens: from ``first`` whole tiles to ``full``, then a rest to ``last``; and the row's length."""
    length = L
    if lengths_ptr is not None:
        length = tl.maximum(tl.minimum(tl.load(lengths_ptr + b).to(tl.int32), L), 0)
    share = tl.cdiv(tl.cdiv(length, BLOCK_N), tl.num_programs(1)) * BLOCK_N
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, length)
    everyone = tl.maximum(length - S + 1, 0) // BLOCK_N * BLOCK_N  # up to here each of the S queries sees all
    return first, tl.maximum(tl.minimum(last, everyone), first), last, length


@triton.jit
def place(table_ptr, b, table_row, n, PAGE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where token n of row b lies: (page, slot), or (row, token) of a contiguous cache."""
    if PAGE > 0:
        return tl.load(table_ptr + b.to(tl.int64) * table_row + n // PAGE), n % PAGE
    else:
        return b, n


@triton.jit
def doubt(length, lengths_ptr, table_ptr, b, table_row, L, X, PAGE: tl.constexpr):  # type: ignore[no-untyped-def]
    """NaN where row b claims more than L tokens, or one of its pages is none of X; else 0.

    The bulk copy gives zeros for such pages. A sum of weights that starts as NaN stays NaN.
    """
    bad = tl.zeros((128,), tl.int32)
    if lengths_ptr is not None:
        bad = tl.where(tl.load(lengths_ptr + b) > L, 1, bad)
    if PAGE > 0:
        for n in range(0, tl.cdiv(length, PAGE), 128):
            at = n + tl.arange(0, 128)
            x = tl.load(table_ptr + b.to(tl.int64) * table_row + at, mask=at < tl.cdiv(length, PAGE), other=0)
            bad = tl.where((x < 0) | (x >= X), 1, bad)
    return tl.where(tl.max(bad, 0) > 0, float("nan"), 0.0)


@triton.jit
def whole_tile(c_desc, r_desc, x, y, C: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    """BLOCK_N tokens from (x, y) on: c (BLOCK_N, CP), r (BLOCK_N, RP), zeros beyond the tensor."""
    c = c_desc.load([x, y, 0]).reshape(BLOCK_N, CP)
    if C != CP:  # a padded tile reads into the next channels
        c = tl.where((tl.arange(0, CP) < C)[None, :], c, 0.0)
    return c, r_desc.load([x, y, 0]).reshape(BLOCK_N, RP)


@triton.jit
def coded_tile(c_desc, s_desc, x, y, left, CP: tl.constexpr, BLOCK_N: tl.constexpr, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """c of FP8 tokens, rounded once to DTYPE; zeros after the first ``left`` tokens."""
    codes = c_desc.load([x, y, 0]).reshape(BLOCK_N, CP)
    scales = s_desc.load([x, y, 0]).reshape(BLOCK_N, CP // 128)
    tiles = from_e4m3(codes).reshape(BLOCK_N, CP // 128, 128) * scales[:, :, None]
    tiles = tl.where((tl.arange(0, BLOCK_N) < left)[:, None, None], tiles, 0.0)
    return narrow(tiles.reshape(BLOCK_N, CP), DTYPE)


@triton.jit
def masked_tile(  # type: ignore[no-untyped-def]
    c_ptr, x, y, X, page, left, C: tl.constexpr, R: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr,
    TOKEN: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The same of the first ``left`` tokens, zeros after them; not FP8."""
    slot = tl.arange(0, BLOCK_N)
    channel, turned = tl.arange(0, CP), tl.arange(0, RP)
    valid = ((slot < left) & (x >= 0) & (x < X))[:, None]
    # One address plus offsets that every tile shares: whole addresses, a tile ahead, spill what a loop before it keeps.
    at = c_ptr + x.to(tl.int64) * page + y * TOKEN + slot[:, None] * TOKEN
    c = tl.load(at + channel[None, :], mask=valid & (channel < C)[None, :], other=0.0)
    r = tl.load(at + C + turned[None, :], mask=valid & (turned < R)[None, :], other=0.0)
    return c, r


@triton.jit
def scores(q_c, q_r, c, r, one, two, APART: tl.constexpr):  # type: ignore[no-untyped-def]
    """q (H, C+R) times latents (N, C+R), transposed: (H, N).

    A product that the compiler sees feeding another is computed whole by every warpgroup. APART hides that: both
    branches of a condition on kernel arguments, ``one`` and ``two``, which are positive, end in a product, and what a
    branch yields is traced no further. Then each warpgroup computes its half of the tokens.
    """
    if APART:
        s = tl.dot(operand(q_r), operand(r).T) if one > 0 else tl.dot(operand(q_r), operand(r).T) * 0.5
        s = tl.dot(operand(q_c), operand(c).T, s) if two > 0 else tl.dot(operand(q_r), operand(r).T, s) * 0.5
    else:
        s = tl.dot(operand(q_c), operand(c).T, input_precision="ieee")
        s = tl.dot(operand(q_r), operand(r).T, s, input_precision="ieee")
    return s


@triton.jit
def many(q_c, q_r, c, r, acc, m, l, n, limit, slope, one, two, MASKED: tl.constexpr, APART: tl.constexpr):  # type: ignore[no-untyped-def]
    """One step of the online softmax over tokens n.. : acc (H, C), largest score m (times slope) and sum l (H)."""
    s = scores(q_c, q_r, c, r, one, two, APART)
    if MASKED:
        token = n + tl.arange(0, s.shape[1])
        s = tl.where(token[None, :] < limit[:, None], s, NEVER)
    new = tl.maximum(m, tl.max(s, 1) * slope)
    base = tl.where(new == NEVER, 0.0, new) if MASKED else new
    p = tl.exp2(s * slope - base[:, None])
    keep = tl.exp2(m - base)
    l = l * keep + tl.sum(p, 1)
    acc = tl.dot(operand(narrow(p, c.dtype)), operand(c), acc * keep[:, None], input_precision="ieee")
    return acc, new, l


@triton.jit
def few(q_c, q_r, c, r, acc, m, l, n, limit, slope, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """The same transposed: q_c (C, H), q_r (R, H), acc (C, H)."""
    s = tl.dot(operand(c), operand(q_c), input_precision="ieee")
    s = tl.dot(operand(r), operand(q_r), s, input_precision="ieee")
    if MASKED:
        token = n + tl.arange(0, s.shape[0])
        s = tl.where(token[:, None] < limit[None, :], s, NEVER)
    new = tl.maximum(m, tl.max(s, 0) * slope)
    base = tl.where(new == NEVER, 0.0, new) if MASKED else new
    p = tl.exp2(s * slope - base[None, :])
    keep = tl.exp2(m - base)
    l = l * keep + tl.sum(p, 0)
    acc = tl.dot(operand(c).T, operand(narrow(p, c.dtype)), acc * keep[None, :], input_precision="ieee")
    return acc, new, l


@triton.jit
def kernel_many(  # type: ignore[no-untyped-def]
    q_desc, qr_desc, c_desc, r_desc, s_desc, c_ptr, table_ptr, lengths_ptr, out_ptr, lse_ptr,
    L, X, table_row, rows, H, S, slope, page, out_split, lse_split,
    C: tl.constexpr, R: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr, PAGE: tl.constexpr, FP8: tl.constexpr,
    TOKEN: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """BLOCK_H query rows x one split x one sequence; out (splits, B, rows, C) and lse (splits, B, rows)."""
    b = tl.program_id(2)
    first, full, last, length = span(lengths_ptr, b, L, S, BLOCK_N)
    row = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    channel = tl.arange(0, CP)
    q_c = q_desc.load([b, tl.program_id(0) * BLOCK_H, 0]).reshape(BLOCK_H, CP)
    q_r = qr_desc.load([b, tl.program_id(0) * BLOCK_H, 0]).reshape(BLOCK_H, RP)
    m = tl.full((BLOCK_H,), NEVER, tl.float32)
    l = tl.zeros((BLOCK_H,), tl.float32) + doubt(length, lengths_ptr, table_ptr, b, table_row, L, X, PAGE)
    acc = tl.zeros((BLOCK_H, CP), tl.float32)
    APART: tl.constexpr = BLOCK_H >= 64
    DTYPE: tl.constexpr = q_desc.dtype
    if FP8:
        limit = length - S + 1 + row // H
        for n in tl.range(first, last, BLOCK_N):
            x, y = place(table_ptr, b, table_row, n, PAGE)
            c = coded_tile(c_desc, s_desc, x, y, last - n, CP, BLOCK_N, DTYPE)
            r = r_desc.load([x, y, 0]).reshape(BLOCK_N, RP)
            acc, m, l = many(q_c, q_r, c, r, acc, m, l, n, limit, slope, L, rows, True, APART)
    else:
        for n in tl.range(first, full, BLOCK_N):
            x, y = place(table_ptr, b, table_row, n, PAGE)
            c, r = whole_tile(c_desc, r_desc, x, y, C, CP, RP, BLOCK_N)
            acc, m, l = many(q_c, q_r, c, r, acc, m, l, n, row, slope, L, rows, False, APART)
        limit = length - S + 1 + row // H
        for n in tl.range(full, last, TAIL, num_stages=2):
            x, y = place(table_ptr, b, table_row, n, PAGE)
            c, r = masked_tile(c_ptr, x, y, X, page, last - n, C, R, CP, RP, TOKEN, TAIL)
            acc, m, l = many(q_c, q_r, c, r, acc, m, l, n, limit, slope, L, rows, True, APART)
    out = acc / tl.where(l == 0, 1.0, l)[:, None]
    at = tl.program_id(1).to(tl.int64) * out_split + (b.to(tl.int64) * rows + row)[:, None] * C + channel[None, :]
    inside = (row < rows)[:, None] & (channel < C)[None, :]
    tl.store(out_ptr + at, narrow(out, out_ptr.dtype.element_ty), mask=inside)
    at = tl.program_id(1).to(tl.int64) * lse_split + b.to(tl.int64) * rows + row
    tl.store(lse_ptr + at, tl.where(l == 0, NEVER, (m + tl.log2(tl.where(l == 0, 1.0, l))) * LN2), mask=row < rows)


@triton.jit
def kernel_few(  # type: ignore[no-untyped-def]
    q_ptr, q_b, q_row, c_desc, r_desc, s_desc, c_ptr, table_ptr, lengths_ptr, out_ptr, lse_ptr,
    L, X, table_row, rows, H, S, slope, page, out_split, lse_split,
    C: tl.constexpr, R: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr, PAGE: tl.constexpr, FP8: tl.constexpr,
    TOKEN: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """As ``kernel_many``; BLOCK_N and TAIL are 64 at least, the rows of a warpgroup's instruction."""
    b = tl.program_id(2)
    first, full, last, length = span(lengths_ptr, b, L, S, BLOCK_N)
    row = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    channel, turned = tl.arange(0, CP), tl.arange(0, RP)
    at = q_ptr + b.to(tl.int64) * q_b + row[None, :] * q_row
    q_c = tl.load(at + channel[:, None], mask=(row < rows)[None, :] & (channel < C)[:, None], other=0.0)
    q_r = tl.load(at + C + turned[:, None], mask=(row < rows)[None, :] & (turned < R)[:, None], other=0.0)
    m = tl.full((BLOCK_H,), NEVER, tl.float32)
    l = tl.zeros((BLOCK_H,), tl.float32) + doubt(length, lengths_ptr, table_ptr, b, table_row, L, X, PAGE)
    acc = tl.zeros((CP, BLOCK_H), tl.float32)
    DTYPE: tl.constexpr = q_ptr.dtype.element_ty
    if FP8:
        limit = length - S + 1 + row // H
        x, y = place(table_ptr, b, table_row, tl.minimum(first, L - 1), PAGE)
        c = coded_tile(c_desc, s_desc, x, y, last - first, CP, BLOCK_N, DTYPE)
        for n in tl.range(first, last, BLOCK_N):
            x, y = place(table_ptr, b, table_row, n, PAGE)
            r = r_desc.load([x, y, 0]).reshape(BLOCK_N, RP)
            acc, m, l = few(q_c, q_r, c, r, acc, m, l, n, limit, slope, True)
            # The next tile, a step ahead: what a loop carries goes to shared memory whole, and only once.
            x, y = place(table_ptr, b, table_row, tl.minimum(n + BLOCK_N, L - 1), PAGE)
            c = coded_tile(c_desc, s_desc, x, y, last - n - BLOCK_N, CP, BLOCK_N, DTYPE)
    else:
        for n in tl.range(first, full, BLOCK_N):
            x, y = place(table_ptr, b, table_row, n, PAGE)
            c, r = whole_tile(c_desc, r_desc, x, y, C, CP, RP, BLOCK_N)
            acc, m, l = few(q_c, q_r, c, r, acc, m, l, n, row, slope, False)
        limit = length - S + 1 + row // H
        for n in tl.range(full, last, TAIL, num_stages=2):
            x, y = place(table_ptr, b, table_row, n, PAGE)
            c, r = masked_tile(c_ptr, x, y, X, page, last - n, C, R, CP, RP, TOKEN, TAIL)
            acc, m, l = few(q_c, q_r, c, r, acc, m, l, n, limit, slope, True)
    out = acc / tl.where(l == 0, 1.0, l)[None, :]
    at = tl.program_id(1).to(tl.int64) * out_split + (b.to(tl.int64) * rows + row)[None, :] * C + channel[:, None]
    inside = (row < rows)[None, :] & (channel < C)[:, None]
    tl.store(out_ptr + at, narrow(out, out_ptr.dtype.element_ty), mask=inside)
    at = tl.program_id(1).to(tl.int64) * lse_split + b.to(tl.int64) * rows + row
    tl.store(lse_ptr + at, tl.where(l == 0, NEVER, (m + tl.log2(tl.where(l == 0, 1.0, l))) * LN2), mask=row < rows)
