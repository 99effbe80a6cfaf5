"""Block-scaled FP8 matrix product with promotion (V3 report, section 3.3.2, figure 7b): y = x W'.

    reference    the definition
    kernel       Triton, for many tokens: tiles of tokens x weights; for few tokens see fp8_gemm_few.py
    fp8_gemm     launcher

Tokens carry a scale per 1 x 128 tile, weights one per 128 x 128 block. Hopper's tensor cores keep about 14 bits while
they add; so after every 128 columns the product is scaled and added to a float32 sum in registers (promotion). It falls
out of the scales: a product over more columns than a scale's could not be scaled.

A tile of 128 x 256 asks the L2 for the fewest bytes per FLOP that registers allow (5.9 TB/s at 1000 TFLOP/s; 128 x 128
7.8). It holds PARTS accumulators of PART columns, so that only one part's product is alive beside them.

M tokens  N outputs  K columns  W = ceil(K/128) tiles  S splits of K
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, fp8_gemm_few, tables
from v3bench.kernels.casts import narrow
from v3bench.kernels.fp8_tiles import descriptor, joined, pinned, place, programs, zeros
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.quantize import FP8, TILE, empty_scales

NEEDS = checks.HOPPER
OUT = (torch.bfloat16, torch.float32)


def reference(
    a: Tensor,
    a_scales: Tensor,
    b: Tensor,
    b_scales: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    compute: torch.dtype = torch.float32,
) -> Tensor:
    """a (M, K), a_scales (M, W), b (N, K), b_scales (ceil(N/128), W) -> (M, N), multiplied in ``compute``."""
    (N, K), wide = b.shape, torch.promote_types(compute, torch.float32)
    x = a.to(wide) * a_scales.to(wide).repeat_interleave(TILE, 1)[:, :K]
    w = b.to(wide) * b_scales.to(wide).repeat_interleave(TILE, 0)[:N].repeat_interleave(TILE, 1)[:, :K]
    return (x.to(compute) @ w.to(compute).T).to(out_dtype)


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    a_desc, b_desc, out_desc, out_ptr, a_scales_ptr, b_scales_ptr, M, N, K,
    a_scales_row, a_scales_column, b_scales_row, b_scales_column, out_split, out_row, steps, splits,
    BLOCK_M: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr, BULK: tl.constexpr,
):  # fmt: skip
    """Every program: tiles of BLOCK_M tokens x PARTS * PART outputs over ``steps`` tiles of K, a grid's width apart."""
    rows, columns = tl.cdiv(M, BLOCK_M), tl.cdiv(N, PARTS * PART)
    for tile in range(tl.program_id(0), rows * columns * splits, tl.num_programs(0)):
        part_of_k = tile // (rows * columns)
        row, column = place(tile % (rows * columns), rows, columns, GROUP)
        m, n = row * BLOCK_M, column * (PARTS * PART)
        # Rows outside are computed, with the last one's scales, and not stored: no mask in the loop.
        tokens = m + tl.arange(0, BLOCK_M)
        a_scales = a_scales_ptr + tl.minimum(tokens, M - 1) * a_scales_row
        last_block = (N - 1) // 128
        sums = zeros(BLOCK_M, PART, PARTS)
        first = part_of_k * steps
        for k in range(first, tl.minimum(first + steps, tl.cdiv(K, 128))):
            # The scales are asked for before the products, which take longer than they.
            b_scale = ()
            for i in tl.static_range(PARTS):
                block = tl.minimum((n + i * PART) // 128, last_block)
                b_scale = joined(b_scale, tl.load(b_scales_ptr + block * b_scales_row + k * b_scales_column))
            a_scale = tl.load(a_scales + k * a_scales_column)
            a = a_desc.load([m, k * 128])
            promoted = ()
            for i in tl.static_range(PARTS):
                b = b_desc.load([n + i * PART, k * 128])
                product = tl.dot(a, b.T)
                promoted = joined(promoted, pinned(sums[i] + product * (a_scale * b_scale[i])[:, None]))
            sums = promoted
        for i in tl.static_range(PARTS):
            made = narrow(sums[i], out_ptr.dtype.element_ty)
            if BULK:
                out_desc.store([m, n + i * PART], made)
            else:
                outputs = n + i * PART + tl.arange(0, PART)
                at = part_of_k.to(tl.int64) * out_split + tokens.to(tl.int64)[:, None] * out_row + outputs[None, :]
                tl.store(out_ptr + at, made, mask=(tokens < M)[:, None] & (outputs < N)[None, :])


def launches(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, out: Tensor, partial: Tensor | None, *, config: Config
) -> tuple[Launch, ...]:
    """As the launcher's arguments and result; ``partial`` (S, M, N) float32 where the config splits K."""
    if config["SWAP"]:
        return fp8_gemm_few.launches(a, a_scales, b, b_scales, out, partial, config=config)
    (M, K), N = a.shape, b.shape[0]
    blocks, options = split(config)
    shape = {name: blocks[name] for name in ("BLOCK_M", "PART", "PARTS", "GROUP")}
    into = out[None] if partial is None else partial
    # The bulk copy passes a tile through shared memory, where one of float32 finds no room beside the operands.
    bulk = partial is None and out.itemsize == 2 and N * out.itemsize % checks.ALIGNMENT == 0
    tile = (shape["BLOCK_M"], shape["PART"])
    rows, columns = cdiv(M, tile[0]), cdiv(N, tile[1] * shape["PARTS"])
    tiles = rows * columns * len(into)
    grid = programs(tiles, blocks["PERSISTENT"], a.device)
    args = {
        "a_desc": descriptor(a, (tile[0], TILE)), "b_desc": descriptor(b, (tile[1], TILE)),
        "out_desc": descriptor(out, tile) if bulk else None, "out_ptr": into,
        "a_scales_ptr": a_scales, "b_scales_ptr": b_scales, "M": M, "N": N, "K": K,
        "a_scales_row": a_scales.stride(0), "a_scales_column": a_scales.stride(1),
        "b_scales_row": b_scales.stride(0), "b_scales_column": b_scales.stride(1),
        "out_split": into.stride(0), "out_row": into.stride(1), "steps": fp8_gemm_few.steps(out, K, config),
        "splits": len(into), **shape, "BULK": bulk,
    }  # fmt: skip
    gemm = Launch(kernel, (grid,), args, options, l2_bytes=(columns * M + rows * N) * K)
    return (gemm,) if partial is None else (gemm, fp8_gemm_few.reduction(partial, out))


def fp8_gemm(
    a: Tensor,
    a_scales: Tensor,
    b: Tensor,
    b_scales: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    *,
    config: Config | None = None,
) -> Tensor:
    """a (M, K), a_scales (M, W), b (N, K), b_scales (ceil(N/128), W) -> (M, N) in ``out_dtype``, as ``reference``.

    Rows of a and b start at multiples of 16 bytes (K % 16 == 0 where they are contiguous); scales may have any strides,
    and are read fastest as quantize_tiles makes them. Raises ValueError.
    """
    check("fp8_gemm", a, a_scales, b, b_scales, out_dtype)
    (M, K), N = a.shape, b.shape[0]
    out = torch.empty(M, N, dtype=out_dtype, device=a.device)
    if a.is_meta or not out.numel():
        return out
    if not K:
        return out.zero_()
    config = config or tables.choose("fp8_gemm", a.device, M=M, N=N, K=K)
    run(launches(a, a_scales, b, b_scales, out, empty_partial(out, K, config), config=config))
    return out


def empty_partial(out: Tensor, K: int, config: Config) -> Tensor | None:
    """Room for the sums over each split of K; None where K is not split."""
    splits = cdiv(cdiv(K, TILE), fp8_gemm_few.steps(out, K, config))
    return torch.empty(splits, *out.shape, dtype=torch.float32, device=out.device) if splits > 1 else None


def check(op: str, a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, out_dtype: torch.dtype) -> None:
    """What the launcher asks of its input. Raises ValueError."""
    checks.tensor(op, "a", a, FP8, (None, None))
    M, K = a.shape
    checks.tensor(op, "b", b, FP8, (None, K))
    checks.scales(op, "a_scales", a_scales, (M, cdiv(K, TILE)))
    checks.scales(op, "b_scales", b_scales, (cdiv(b.shape[0], TILE), cdiv(K, TILE)))
    checks.device(op, NEEDS, a, a_scales, b, b_scales)
    checks.result(op, out_dtype, OUT)


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches at a table's shape on the meta device, for compilation ahead of time."""
    (M, N, K), meta = (shape[name] for name in "MNK"), torch.device("meta")
    a, b = (torch.empty(rows, K, dtype=FP8, device=meta) for rows in (M, N))
    b_scales = torch.empty(cdiv(N, TILE), cdiv(K, TILE), device=meta)
    out = torch.empty(M, N, dtype=torch.bfloat16, device=meta)
    a_scales = empty_scales(M, cdiv(K, TILE), meta)
    return launches(a, a_scales, b, b_scales, out, empty_partial(out, K, config), config=config)


def many(m: int, part: int, parts: int, warps: int, stages: int, **rest: int) -> dict[str, Any]:
    """A config of the form for many tokens; bands of about 2048 rows of tokens."""
    return {
        "SWAP": False, "BLOCK_M": m, "PART": part, "PARTS": parts, "GROUP": 2048 // m, "SPLITS": 1, "PERSISTENT": 1,
        "num_warps": warps, "num_stages": stages, **rest,
    }  # fmt: skip


def few(n: int, t: int, warps: int, stages: int, splits: int) -> dict[str, Any]:
    """A config of the form for few tokens."""
    return {
        "SWAP": True, "BLOCK_N": n, "BLOCK_T": t, "SPLITS": splits, "num_warps": warps, "num_stages": stages
    }  # fmt: skip


# As Triton 3.6 and 3.7.1 compile them for sm_90, nothing spills.
# Few tokens first, as where both forms are equally good this one wastes no products. One CTA with 8 stages of 128 x 128
# weights has 112 KB of them on their way; HBM wants about 32 KB an SM. Splitting K fills the chip, for one launch more.
# Tiles of fewer outputs read the tokens from the L2 more often: free at 16 tokens, half the weights' bytes at 64.
# Many tokens: 128 x 256 (223 registers, one CTA per SM), the same turned with four warpgroups (116), 128 x 192 (168),
# which divides 2112, and 128 x 128 (116), which fits an SM twice.
CANDIDATES = {
    "fp8_gemm": [
        *(few(64, 16, 4, 10, splits) for splits in (1, 4, 2)),
        few(64, 16, 4, 6, 1),
        few(128, 16, 4, 6, 4),
        few(64, 32, 4, 8, 1),
        *(few(128, 64, 8, 8, splits) for splits in (2, 4, 8)),
        *(few(128, 64, 8, 4, splits) for splits in (1, 4)),
        *(few(64, 64, 4, stages, 1) for stages in (8, 4)),
        few(64, 128, 4, 4, 1),
        few(128, 128, 8, 4, 2),
        many(128, 128, 2, 8, 4),
        many(256, 64, 2, 16, 4),
        many(128, 64, 3, 8, 4),
        many(128, 64, 2, 8, 3, PERSISTENT=2),
        many(64, 128, 2, 4, 4, PERSISTENT=0, SPLITS=4),
        *(many(128, 128, 2, 8, 4, PERSISTENT=0, SPLITS=splits) for splits in (2, 4)),
        *(many(128, 64, 2, 8, 3, PERSISTENT=0, SPLITS=splits, maxnreg=128) for splits in (2, 4)),
    ]
}
SHAPES = {
    16: ((2112, 7168), (7168, 16384)),
    64: ((24576, 1536), (4096, 7168), (7168, 2048), (7168, 16384)),
    128: ((4096, 7168), (7168, 16384)),
    512: ((24576, 1536), (4096, 7168), (7168, 16384)),
    4096: ((2112, 7168), (24576, 1536), (32768, 512), (4096, 7168), (7168, 16384)),
}
TABLE_SHAPES = {"fp8_gemm": [{"M": M, "N": N, "K": K} for M, sides in SHAPES.items() for N, K in sides]}
