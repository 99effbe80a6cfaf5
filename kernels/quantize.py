"""Fine-grained FP8 quantisation (V3 report, section 3.3.2): activations per 1 x 128 tile, weights per 128 x 128 block.

    reference_tiles, reference_blocks    the definitions
    kernel_tiles, kernel_blocks          Triton
    quantize_tiles, quantize_blocks      launchers; their inverses are in dequantize.py

A code is the value times 448 / amax, to nearest even; the scale that undoes it is amax / 448. ``clamp`` is the least
amax, so that a tile of zeros has a scale: 1e-4 as released for activations; a gradient wants GUARD, as 1e-4 would flush
small ones. With ``power_of_two`` the scale is rounded up to a power of two (UE8M0). A tile that holds NaN or infinity
dequantises wholly to NaN. A tile at the end may be shorter than 128.

M rows  K columns  W = ceil(K/128) tiles
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, tables
from v3bench.kernels.casts import magnitude, to_e4m3
from v3bench.kernels.launch import Config, Launch, cdiv, run, split

TILE = 128
FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
ACTIVATION, GUARD = 1e-4, 2.0**-100  # the least amax
NEEDS = checks.HOPPER
WIDE = (torch.bfloat16, torch.float16, torch.float32)


def reference_tiles(x: Tensor, *, clamp: float = ACTIVATION, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """x (M, K) -> codes (M, K) e4m3, scales (M, W) float32."""
    K = x.shape[1]
    tiles = torch.nn.functional.pad(x.float(), (0, -K % TILE)).unflatten(1, (-1, TILE))  # (M, W, 128)
    codes, scales = coded(tiles, tiles.abs().amax(-1, keepdim=True), clamp, power_of_two)
    return codes.flatten(1)[:, :K], scales.squeeze(-1)


def reference_blocks(w: Tensor, *, clamp: float = ACTIVATION, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """w (N, K) -> codes (N, K) e4m3, scales (ceil(N/128), W) float32."""
    N, K = w.shape
    padded = torch.nn.functional.pad(w.float(), (0, -K % TILE, 0, -N % TILE))
    blocks = padded.unflatten(0, (-1, TILE)).unflatten(2, (-1, TILE))  # (N/128, 128, W, 128)
    codes, scales = coded(blocks, blocks.abs().amax((1, 3), keepdim=True), clamp, power_of_two)
    return codes.flatten(2).flatten(0, 1)[:N, :K], scales[:, 0, :, 0]


def coded(x: Tensor, amax: Tensor, clamp: float, power_of_two: bool) -> tuple[Tensor, Tensor]:
    """x and the magnitude of its tile -> codes and scale."""
    amax = amax.clamp(min=clamp).masked_fill(~amax.isfinite(), float("nan"))  # NaN would pass the clamp, infinity not
    most = torch.full_like(amax, FP8_MAX)
    # Tensors on both sides: with a number on one, torch multiplies by a reciprocal (above a tensor everywhere, below it
    # on a GPU), which rounds twice.
    scale = amax / most
    if power_of_two:
        scale = torch.exp2(torch.ceil(torch.log2(scale.double()))).float()
    inverse = torch.ones_like(amax) / scale if power_of_two else most / amax
    return (x * inverse).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale


@triton.jit
def scale_of(amax, clamp, POWER_OF_TWO: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile's magnitude -> (scale, inverse); both NaN where the magnitude is."""
    least = tl.where(amax != amax, amax, tl.maximum(amax, clamp))
    scale = tl.div_rn(least, 448.0)
    if POWER_OF_TWO:
        bits = scale.to(tl.int32, bitcast=True)
        up = ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)  # next power of two, itself if it is one
        scale = tl.where(amax != amax, amax, up)
        inverse = tl.div_rn(1.0, scale)
    else:
        inverse = tl.div_rn(448.0, least)
    return scale, inverse


@triton.jit
def kernel_tiles(  # type: ignore[no-untyped-def]
    x_ptr, codes_ptr, scales_ptr, M, K, x_row, codes_row, scales_row, scales_column, clamp,
    ROWS: tl.constexpr, POWER_OF_TWO: tl.constexpr,
):  # fmt: skip
    """One program: ROWS rows of one column of tiles."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    tile = tl.program_id(1)
    columns = tile * 128 + tl.arange(0, 128)
    inside = (rows < M)[:, None] & (columns < K)[None, :]
    x = tl.load(x_ptr + rows[:, None] * x_row + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    scale, inverse = scale_of(magnitude(x, 1), clamp, POWER_OF_TWO)
    codes = to_e4m3(x * inverse[:, None])
    tl.store(codes_ptr + rows[:, None] * codes_row + columns[None, :], codes, mask=inside)
    tl.store(scales_ptr + rows * scales_row + tile.to(tl.int64) * scales_column, scale, mask=rows < M)


@triton.jit
def kernel_blocks(  # type: ignore[no-untyped-def]
    w_ptr, codes_ptr, scales_ptr, N, K, w_stack, w_row, codes_stack, codes_row, clamp, POWER_OF_TWO: tl.constexpr
):
    """One program: one 128 x 128 block of one matrix of the stack."""
    row, column, matrix = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    rows = (row * 128 + tl.arange(0, 128)).to(tl.int64)
    columns = column * 128 + tl.arange(0, 128)
    inside = (rows < N)[:, None] & (columns < K)[None, :]
    at = rows[:, None] * w_row + columns[None, :]
    w = tl.load(w_ptr + matrix * w_stack + at, mask=inside, other=0.0).to(tl.float32)
    scale, inverse = scale_of(magnitude(magnitude(w, 1), 0), clamp, POWER_OF_TWO)
    at = rows[:, None] * codes_row + columns[None, :]
    tl.store(codes_ptr + matrix * codes_stack + at, to_e4m3(w * inverse), mask=inside)
    block = (matrix * tl.num_programs(0) + row) * tl.num_programs(1) + column
    tl.store(scales_ptr + block, scale)


def launches_tiles(
    x: Tensor, codes: Tensor, scales: Tensor, *, clamp: float, power_of_two: bool, config: Config
) -> tuple[Launch, ...]:
    """As the launcher's arguments and results."""
    (M, K), (blocks, options) = x.shape, split(config)
    args = {
        "x_ptr": x, "codes_ptr": codes, "scales_ptr": scales, "M": M, "K": K, "x_row": x.stride(0),
        "codes_row": codes.stride(0), "scales_row": scales.stride(0), "scales_column": scales.stride(1),
        "clamp": clamp, "POWER_OF_TWO": power_of_two, **blocks,
    }  # fmt: skip
    return (Launch(kernel_tiles, (cdiv(M, blocks["ROWS"]), cdiv(K, TILE)), args, options),)


def quantize_tiles(
    x: Tensor, *, clamp: float = ACTIVATION, power_of_two: bool = False, config: Config | None = None
) -> tuple[Tensor, Tensor]:
    """x (M, K) bf16, f16 or f32 -> codes (M, K) e4m3, scales (M, W) float32, as ``reference_tiles``.

    The scales are stored column by column, (W, M padded to 4), as GEMMs read them. Raises ValueError.
    """
    check("quantize_tiles", x, 2, clamp)
    M, K = x.shape
    codes = torch.empty(M, K, dtype=FP8, device=x.device)
    scales = empty_scales(M, cdiv(K, TILE), x.device)
    config = config or tables.choose("quantize_tiles", x.device, M=M, K=K)
    if not x.is_meta:
        run(launches_tiles(x, codes, scales, clamp=clamp, power_of_two=power_of_two, config=config))
    return codes, scales


def empty_scales(rows: int, tiles: int, device: torch.device) -> Tensor:
    """(rows, tiles) float32, stored column by column with rows padded to 4: what the bulk copy engine can address."""
    return torch.empty(tiles, cdiv(rows, 4) * 4, dtype=torch.float32, device=device).T[:rows]


def launches_blocks(
    w: Tensor, codes: Tensor, scales: Tensor, *, clamp: float, power_of_two: bool, config: Config
) -> tuple[Launch, ...]:
    """As the launcher's arguments and results; w (E, N, K)."""
    (E, N, K), (blocks, options) = w.shape, split(config)
    args = {
        "w_ptr": w, "codes_ptr": codes, "scales_ptr": scales, "N": N, "K": K,
        "w_stack": w.stride(0), "w_row": w.stride(1), "codes_stack": codes.stride(0), "codes_row": codes.stride(1),
        "clamp": clamp, "POWER_OF_TWO": power_of_two, **blocks,
    }  # fmt: skip
    return (Launch(kernel_blocks, (cdiv(N, TILE), cdiv(K, TILE), E), args, options),)


def quantize_blocks(
    w: Tensor, *, clamp: float = ACTIVATION, power_of_two: bool = False, config: Config | None = None
) -> tuple[Tensor, Tensor]:
    """w (N, K), or a stack (E, N, K) -> codes as w, scales (.., ceil(N/128), W), as ``reference_blocks``.

    Raises ValueError.
    """
    checks.tensors("quantize_blocks", w=w)
    check("quantize_blocks", w, w.ndim if w.ndim in (2, 3) else 3, clamp, "w")
    *_, N, K = w.shape
    codes = torch.empty(w.shape, dtype=FP8, device=w.device)
    scales = torch.empty(*w.shape[:-2], cdiv(N, TILE), cdiv(K, TILE), dtype=torch.float32, device=w.device)
    config = config or tables.choose("quantize_blocks", w.device, N=N, K=K)
    if not w.is_meta:
        stack, into = (w, codes) if w.ndim == 3 else (w[None], codes[None])
        run(launches_blocks(stack, into, scales, clamp=clamp, power_of_two=power_of_two, config=config))
    return codes, scales


def check(op: str, x: Tensor, ndim: int, clamp: float, name: str = "x") -> None:
    """What both quantisers ask of their input. Raises ValueError."""
    checks.tensor(op, name, x, WIDE, (None,) * ndim, aligned=False)
    checks.device(op, NEEDS, x)
    if not GUARD <= clamp < float("inf"):
        raise ValueError(f"{op}: clamp is {clamp}, expected a finite amax of at least {GUARD}")


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches of an operation at a table's shape on the meta device, for compilation ahead of time."""

    def empty(*size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    K = shape["K"]
    given: dict[str, Any] = {"clamp": ACTIVATION, "power_of_two": False, "config": config}
    if op == "quantize_blocks":
        N = shape["N"]
        scales = empty(1, cdiv(N, TILE), cdiv(K, TILE), dtype=torch.float32)
        return launches_blocks(empty(1, N, K, dtype=torch.bfloat16), empty(1, N, K, dtype=FP8), scales, **given)
    M = shape["M"]
    scales = empty_scales(M, cdiv(K, TILE), torch.device("meta"))
    return launches_tiles(empty(M, K, dtype=torch.bfloat16), empty(M, K, dtype=FP8), scales, **given)


# 16 rows a program with 4 warps give every thread several loads of 16 bytes before it needs the first; a grid of few
# rows wants smaller programs.
ROWS = [
    {"ROWS": rows, "num_warps": warps}
    for rows, warps in ((16, 4), (16, 2), (32, 4), (8, 2), (32, 8), (8, 4), (4, 1), (4, 2), (4, 4), (1, 1))
]
CANDIDATES = {
    "quantize_tiles": ROWS,
    "quantize_blocks": [{"num_warps": warps} for warps in (8, 4, 16)],
}
TOKENS = (1, 64, 128, 1024, 4096, 16384)
WEIGHTS = ((576, 7168), (4096, 7168), (7168, 16384))
TABLE_SHAPES = {
    "quantize_tiles": [{"M": M, "K": K} for M in TOKENS for K in (2048, 7168)],
    "quantize_blocks": [{"N": N, "K": K} for N, K in WEIGHTS],
}
