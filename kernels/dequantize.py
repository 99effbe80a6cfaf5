"""The inverses of fine-grained FP8 quantisation (V3 report, section 3.3.2): code times scale, rounded once.

    reference_tiles                      the definition for 1 x 128 tiles; block_quant.reference is that for blocks
    kernel_tiles, kernel_blocks          Triton
    dequantize_tiles, dequantize_blocks  launchers

M, N rows  K columns  W = ceil(K/128) tiles
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, tables
from v3bench.kernels.casts import from_e4m3, narrow
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.quantize import FP8, NEEDS, ROWS, TILE, TOKENS, WEIGHTS, WIDE, empty_scales


def reference_tiles(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """codes (M, K), scales (M, W) -> (M, K) in ``dtype``."""
    spread = scales.repeat_interleave(TILE, dim=1)[:, : codes.shape[1]]
    return (codes.float() * spread).to(dtype)


@triton.jit
def kernel_tiles(  # type: ignore[no-untyped-def]
    codes_ptr, scales_ptr, x_ptr, M, K, codes_row, scales_row, scales_column, x_row, ROWS: tl.constexpr
):
    """One program: ROWS rows of one column of tiles."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    tile = tl.program_id(1)
    columns = tile * 128 + tl.arange(0, 128)
    inside = (rows < M)[:, None] & (columns < K)[None, :]
    codes = tl.load(codes_ptr + rows[:, None] * codes_row + columns[None, :], mask=inside)
    scale = tl.load(scales_ptr + rows * scales_row + tile.to(tl.int64) * scales_column, mask=rows < M)
    x = from_e4m3(codes) * scale[:, None]
    tl.store(x_ptr + rows[:, None] * x_row + columns[None, :], narrow(x, x_ptr.dtype.element_ty), mask=inside)


@triton.jit
def kernel_blocks(  # type: ignore[no-untyped-def]
    codes_ptr, scales_ptr, w_ptr, N, K, codes_row, scales_row, w_row,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: ROWS rows of 128 columns, which may lie in several blocks of the scales."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.program_id(1) * 128 + tl.arange(0, 128)
    inside = (rows < N)[:, None] & (columns < K)[None, :]
    codes = tl.load(codes_ptr + rows[:, None] * codes_row + columns[None, :], mask=inside)
    at = (rows // BLOCK_N)[:, None] * scales_row + (columns // BLOCK_K)[None, :]
    w = from_e4m3(codes) * tl.load(scales_ptr + at, mask=inside)
    tl.store(w_ptr + rows[:, None] * w_row + columns[None, :], narrow(w, w_ptr.dtype.element_ty), mask=inside)


def launches_tiles(codes: Tensor, scales: Tensor, x: Tensor, *, config: Config) -> tuple[Launch, ...]:
    """As the launcher's arguments and result."""
    (M, K), (blocks, options) = codes.shape, split(config)
    args = {
        "codes_ptr": codes, "scales_ptr": scales, "x_ptr": x, "M": M, "K": K, "codes_row": codes.stride(0),
        "scales_row": scales.stride(0), "scales_column": scales.stride(1), "x_row": x.stride(0), **blocks,
    }  # fmt: skip
    return (Launch(kernel_tiles, (cdiv(M, blocks["ROWS"]), cdiv(K, TILE)), args, options),)


def dequantize_tiles(
    codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16, config: Config | None = None
) -> Tensor:
    """codes (M, K), scales (M, W) -> (M, K) in ``dtype``, as ``reference_tiles``. Raises ValueError."""
    checks.tensor("dequantize_tiles", "codes", codes, FP8, (None, None), aligned=False)
    check_dtype("dequantize_tiles", dtype)
    M, K = codes.shape
    checks.scales("dequantize_tiles", "scales", scales, (M, cdiv(K, TILE)))
    where = checks.device("dequantize_tiles", NEEDS, codes, scales)
    x = torch.empty(M, K, dtype=dtype, device=where)
    config = config or tables.choose("dequantize_tiles", where, M=M, K=K)
    if not codes.is_meta:
        run(launches_tiles(codes, scales, x, config=config))
    return x


def launches_blocks(
    codes: Tensor, scale_inv: Tensor, w: Tensor, *, block: tuple[int, int], config: Config
) -> tuple[Launch, ...]:
    """As the launcher's arguments and result."""
    (N, K), (blocks, options) = codes.shape, split(config)
    args = {
        "codes_ptr": codes, "scales_ptr": scale_inv, "w_ptr": w, "N": N, "K": K, "codes_row": codes.stride(0),
        "scales_row": scale_inv.stride(0), "w_row": w.stride(0), "BLOCK_N": block[0], "BLOCK_K": block[1], **blocks,
    }  # fmt: skip
    return (Launch(kernel_blocks, (cdiv(N, blocks["ROWS"]), cdiv(K, TILE)), args, options),)


def dequantize_blocks(
    codes: Tensor,
    scale_inv: Tensor,
    dtype: torch.dtype = torch.bfloat16,
    block: tuple[int, int] = (TILE, TILE),
    config: Config | None = None,
) -> Tensor:
    """codes (N, K), scale_inv (ceil(N/128), W) float32 -> (N, K), as ``block_quant.reference``. Raises ValueError."""
    op = "dequantize_blocks"
    checks.tensor(op, "codes", codes, FP8, (None, None), aligned=False)
    check_dtype(op, dtype)
    N, K = codes.shape
    scales = (cdiv(N, block[0]), cdiv(K, block[1]))
    checks.tensor(op, "scale_inv", scale_inv, torch.float32, scales, aligned=False)
    where = checks.device(op, NEEDS, codes, scale_inv)
    w = torch.empty(N, K, dtype=dtype, device=where)
    config = config or tables.choose(op, where, N=N, K=K)
    if not codes.is_meta:
        run(launches_blocks(codes, scale_inv, w, block=block, config=config))
    return w


def check_dtype(op: str, dtype: torch.dtype) -> None:
    """What both inverses can round to. Raises ValueError."""
    if dtype not in WIDE:
        right = " or ".join(map(checks.short, WIDE))
        raise ValueError(f"{op}: dtype is {checks.short(dtype)}, expected {right}")


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches of an operation at a table's shape on the meta device, for compilation ahead of time."""
    K, meta = shape["K"], torch.device("meta")
    rows = shape["N"] if op == "dequantize_blocks" else shape["M"]
    codes = torch.empty(rows, K, dtype=FP8, device=meta)
    out = torch.empty(rows, K, dtype=torch.bfloat16, device=meta)
    if op == "dequantize_blocks":
        scale_inv = torch.empty(cdiv(rows, TILE), cdiv(K, TILE), dtype=torch.float32, device=meta)
        return launches_blocks(codes, scale_inv, out, block=(TILE, TILE), config=config)
    return launches_tiles(codes, empty_scales(rows, cdiv(K, TILE), meta), out, config=config)


CANDIDATES = {"dequantize_tiles": ROWS, "dequantize_blocks": ROWS[:4]}
TABLE_SHAPES = {
    "dequantize_tiles": [{"M": M, "K": 7168} for M in TOKENS],
    "dequantize_blocks": [{"N": N, "K": K} for N, K in WEIGHTS],
}
