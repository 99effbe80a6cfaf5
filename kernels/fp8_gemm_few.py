"""Block-scaled FP8 matrix product for few tokens: fp8_gemm's other form, bound by reading the weights once.

    kernel       Triton: tiles of weights x tokens, so that few tokens still fill a matrix instruction
    kernel_sum   Triton: the splits of K added up in their order

A warpgroup's instruction takes 64 rows and 8 to 256 columns: with the weights as rows (swapped operands) and 16 to 128
tokens as columns nothing is wasted. N/128 tiles are too few to keep 132 SMs reading; so K is split, every split writes
its float32 sums, and a second launch adds them, always in the same order: repeated runs are equal bit for bit.

M tokens  N outputs  K columns  W = ceil(K/128) tiles  S splits of K
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels.casts import narrow
from v3bench.kernels.fp8_tiles import descriptor
from v3bench.kernels.launch import Config, Launch, cdiv, sms, split

TILE = 128
SUM_BLOCK = 1024  # elements of a program of kernel_sum: 4 of each thread, one load of 16 bytes a split


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    a_desc, b_desc, out_ptr, a_scales_ptr, b_scales_ptr, M, N, K,
    a_scales_row, a_scales_column, b_scales_row, b_scales_column, out_split, out_row, steps,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_N outputs (64 or 128: of one block of scales) x BLOCK_T tokens over ``steps`` tiles of K."""
    n, t, part_of_k = tl.program_id(0) * BLOCK_N, tl.program_id(1) * BLOCK_T, tl.program_id(2)
    tokens = t + tl.arange(0, BLOCK_T)
    a_scales = a_scales_ptr + tokens * a_scales_row
    b_scales = b_scales_ptr + (n // 128) * b_scales_row
    total = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    first = part_of_k * steps
    last = tl.minimum(first + steps, tl.cdiv(K, 128)) - 1
    # A mask, not a clamp as for many tokens: neighbouring tokens' scales come in one load. And that a tile ahead: the
    # products of few tokens do not last as long as a load.
    a_next = tl.load(a_scales + first * a_scales_column, mask=tokens < M, other=0.0)
    b_next = tl.load(b_scales + first * b_scales_column)
    for k in range(first, last + 1):
        scale = a_next * b_next
        ahead = tl.minimum(k + 1, last)
        a_next = tl.load(a_scales + ahead * a_scales_column, mask=tokens < M, other=0.0)
        b_next = tl.load(b_scales + ahead * b_scales_column)
        a = a_desc.load([t, k * 128])
        b = b_desc.load([n, k * 128])
        total += tl.dot(b, a.T) * scale[None, :]
    outputs = n + tl.arange(0, BLOCK_N)
    at = part_of_k.to(tl.int64) * out_split + tokens.to(tl.int64)[None, :] * out_row + outputs[:, None]
    inside = (outputs < N)[:, None] & (tokens < M)[None, :]
    tl.store(out_ptr + at, narrow(total, out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def kernel_sum(partial_ptr, out_ptr, count, SPLITS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program: BLOCK of the ``count`` elements of partial (SPLITS, count), added up split by split."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    partial = partial_ptr + at
    for _ in tl.static_range(SPLITS):  # unrolled: all loads are in flight at once
        total += tl.load(partial, mask=at < count, other=0.0)
        partial += count
    tl.store(out_ptr + at, narrow(total, out_ptr.dtype.element_ty), mask=at < count)


def steps(out: Tensor, K: int, config: Config) -> int:
    """Tiles of K that one split goes over; none is left without work.

    K is split only where the tiles of out (M, N) leave SMs idle: more sums would have to be written than that is worth.
    """
    (M, N), tiles = out.shape, cdiv(K, TILE)
    n, t = ("BLOCK_N", "BLOCK_T") if config["SWAP"] else ("PART", "BLOCK_M")
    programs = cdiv(N, config[n] * config.get("PARTS", 1)) * cdiv(M, config[t])
    return cdiv(tiles, min(config["SPLITS"], tiles)) if programs < sms(out.device) else tiles


def launches(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, out: Tensor, partial: Tensor | None, *, config: Config
) -> tuple[Launch, ...]:
    """As fp8_gemm's."""
    (M, K), N = a.shape, b.shape[0]
    blocks, options = split(config)
    n, t = blocks["BLOCK_N"], blocks["BLOCK_T"]
    into = out[None] if partial is None else partial
    args = {
        "a_desc": descriptor(a, (t, TILE)), "b_desc": descriptor(b, (n, TILE)), "out_ptr": into,
        "a_scales_ptr": a_scales, "b_scales_ptr": b_scales, "M": M, "N": N, "K": K,
        "a_scales_row": a_scales.stride(0), "a_scales_column": a_scales.stride(1),
        "b_scales_row": b_scales.stride(0), "b_scales_column": b_scales.stride(1),
        "out_split": into.stride(0), "out_row": into.stride(1), "steps": steps(out, K, config),
        "BLOCK_N": n, "BLOCK_T": t,
    }  # fmt: skip
    grid = cdiv(N, n), cdiv(M, t), len(into)
    gemm = Launch(kernel, grid, args, options, l2_bytes=(grid[0] * M + grid[1] * N) * K)
    return (gemm,) if partial is None else (gemm, reduction(partial, out))


def reduction(partial: Tensor, out: Tensor) -> Launch:
    """partial (S, M, N) float32 -> their sum over S in out (M, N), which is contiguous."""
    args: dict[str, Any] = {
        "partial_ptr": partial, "out_ptr": out, "count": out.numel(), "SPLITS": len(partial), "BLOCK": SUM_BLOCK,
    }  # fmt: skip
    return Launch(kernel_sum, (cdiv(out.numel(), SUM_BLOCK),), args, {"num_warps": 8})
