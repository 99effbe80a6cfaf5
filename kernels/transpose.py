"""FP8 operands with their sides exchanged, as the gradients' products read them (V3 report, section 3.3.2).

    reference_columns, reference_weights    the definitions
    kernel_columns, kernel_weights          Triton
    quantize_columns                        activations or gradients, quantised anew in 128 x 1 tiles along the tokens
    transpose_weights                       quantised weights: a block of 128 x 128 turned keeps its scale

T tokens  D columns  E experts  N, K sides of a weight  W = ceil(T/128) tiles
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, quantize
from v3bench.kernels.casts import magnitude, to_e4m3
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.quantize import ACTIVATION, FP8, TILE, empty_scales, scale_of

NEEDS = checks.HOPPER
# 128 tokens x 64 columns: rows of 128 bytes in, rows of 128 bytes out, 64 elements a thread.
COLUMNS: Config = {"COLUMNS": 64, "num_warps": 4}
WEIGHTS: Config = {"num_warps": 8}


def reference_columns(x: Tensor, *, clamp: float = ACTIVATION) -> tuple[Tensor, Tensor]:
    """x (T, D) -> codes (D, T) e4m3, scales (D, W) float32."""
    return quantize.reference_tiles(x.T, clamp=clamp)


def reference_weights(codes: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """codes (E, N, K), scales (E, ceil(N/128), ceil(K/128)) -> codes (E, K, N) and the scales turned likewise."""
    return codes.transpose(1, 2).contiguous(), scales.transpose(1, 2).contiguous()


@triton.jit
def kernel_columns(  # type: ignore[no-untyped-def]
    x_ptr, codes_ptr, scales_ptr, T, D, x_row, codes_row, scales_row, scales_column, clamp, COLUMNS: tl.constexpr
):
    """One program: one tile of tokens of COLUMNS columns."""
    tile = tl.program_id(1)
    tokens = (tile * 128 + tl.arange(0, 128)).to(tl.int64)
    columns = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    inside = (tokens < T)[:, None] & (columns < D)[None, :]
    x = tl.load(x_ptr + tokens[:, None] * x_row + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    scale, inverse = scale_of(magnitude(x, 0), clamp, False)
    codes = to_e4m3(x * inverse[None, :])
    tl.store(codes_ptr + columns[:, None] * codes_row + tokens[None, :], codes.T, mask=inside.T)
    tl.store(scales_ptr + columns * scales_row + tile.to(tl.int64) * scales_column, scale, mask=columns < D)


@triton.jit
def kernel_weights(codes_ptr, scales_ptr, out_ptr, out_scales_ptr, N, K):  # type: ignore[no-untyped-def]
    """One program: one block of one expert, and its scale."""
    n, k, expert = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    rows, columns = n * 128 + tl.arange(0, 128), k * 128 + tl.arange(0, 128)
    inside = (rows < N)[:, None] & (columns < K)[None, :]
    first = expert * N * K
    codes = tl.load(codes_ptr + first + rows.to(tl.int64)[:, None] * K + columns[None, :], mask=inside)
    tl.store(out_ptr + first + columns.to(tl.int64)[:, None] * N + rows[None, :], codes.T, mask=inside.T)
    blocks = expert * tl.num_programs(0) * tl.num_programs(1)
    scale = tl.load(scales_ptr + blocks + n * tl.num_programs(1) + k)
    tl.store(out_scales_ptr + blocks + k * tl.num_programs(0) + n, scale)


def launches_columns(
    x: Tensor, codes: Tensor, scales: Tensor, *, clamp: float, config: Config = COLUMNS
) -> tuple[Launch, ...]:
    """As the launcher's arguments and results."""
    (T, D), (blocks, options) = x.shape, split(config)
    args = {
        "x_ptr": x, "codes_ptr": codes, "scales_ptr": scales, "T": T, "D": D, "x_row": x.stride(0),
        "codes_row": codes.stride(0), "scales_row": scales.stride(0), "scales_column": scales.stride(1),
        "clamp": clamp, **blocks,
    }  # fmt: skip
    return (Launch(kernel_columns, (cdiv(D, blocks["COLUMNS"]), cdiv(T, TILE)), args, options),)


def quantize_columns(x: Tensor, *, clamp: float = ACTIVATION) -> tuple[Tensor, Tensor]:
    """x (T, D) bf16, f16 or f32 -> codes (D, T) e4m3, scales (D, W) float32, as ``reference_columns``.

    Rows of the codes start at multiples of 16 bytes; the scales are stored by column. Raises ValueError.
    """
    quantize.check("quantize_columns", x, 2, clamp)
    T, D = x.shape
    codes = torch.empty(D, cdiv(T, 16) * 16, dtype=FP8, device=x.device)[:, :T]
    scales = empty_scales(D, cdiv(T, TILE), x.device)
    if not x.is_meta:
        run(launches_columns(x, codes, scales, clamp=clamp))
    return codes, scales


def launches_weights(
    codes: Tensor, scales: Tensor, turned: Tensor, turned_scales: Tensor, *, config: Config = WEIGHTS
) -> tuple[Launch, ...]:
    """As the launcher's arguments and results."""
    (E, N, K), (_, options) = codes.shape, split(config)
    args = {
        "codes_ptr": codes,
        "scales_ptr": scales,
        "out_ptr": turned,
        "out_scales_ptr": turned_scales,
        "N": N,
        "K": K,
    }
    return (Launch(kernel_weights, (cdiv(N, TILE), cdiv(K, TILE), E), args, options),)


def transpose_weights(codes: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """As ``reference_weights``. Raises ValueError."""
    op = "transpose_weights"
    checks.tensor(op, "codes", codes, FP8, (None, None, None), contiguous=True, aligned=False)
    E, N, K = codes.shape
    shape = (E, cdiv(N, TILE), cdiv(K, TILE))
    checks.tensor(op, "scales", scales, torch.float32, shape, contiguous=True, aligned=False)
    checks.device(op, NEEDS, codes, scales)
    turned, turned_scales = codes.new_empty(E, K, N), scales.new_empty(E, shape[2], shape[1])
    if not codes.is_meta:
        run(launches_weights(codes, scales, turned, turned_scales))
    return turned, turned_scales
