"""RMSNorm and FP8 tiles in one pass over a row: what enters every block-scaled GEMM of a layer (norm.py, quantize.py).

    reference, reference_add                      the definitions
    kernel                                        Triton
    rms_norm_quantize, add_rms_norm_quantize      launchers

The float32 values are quantised as they are, not rounded to bfloat16 in between: one rounding less than the two
operations one after the other, whose codes are at most a step away. With a residual, the sum is rounded to its dtype
first, as that is what the next layer reads; the norm is of the rounded sum. A row with NaN spoils no other.

M rows  D columns  W = ceil(D/128) tiles
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, norm, quantize, tables
from v3bench.kernels.casts import magnitude, narrow, to_e4m3
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.quantize import ACTIVATION, FP8, NEEDS, TILE, WIDE, empty_scales, scale_of

MOST = 16384  # columns: a program holds a whole row in registers


def reference(x: Tensor, weight: Tensor, eps: float, *, clamp: float = ACTIVATION) -> tuple[Tensor, Tensor]:
    """x (M, D), weight (D) -> codes (M, D) e4m3, scales (M, W) float32."""
    return quantize.reference_tiles(norm.reference(x.float(), weight.float(), eps), clamp=clamp)


def reference_add(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, clamp: float = ACTIVATION
) -> tuple[Tensor, Tensor, Tensor]:
    """x and residual (M, D) -> codes, scales of the normalised sum, and the sum in the residual's dtype."""
    total = (x.float() + residual.float()).to(residual.dtype)
    return *reference(total, weight, eps, clamp=clamp), total


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    x_ptr, residual_ptr, weight_ptr, codes_ptr, scales_ptr, total_ptr, rows_ptr, rstd_ptr, D, x_row, residual_row,
    codes_row, scales_row, scales_column, total_row, rows_row, eps, clamp, TILES: tl.constexpr,
):  # fmt: skip
    """One program: one row, as TILES x 128; residual, total, normalised rows and 1/rms only where they are given."""
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    columns = tile[:, None] * 128 + tl.arange(0, 128)[None, :]
    inside = columns < D
    x = tl.load(x_ptr + row * x_row + columns, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0, eviction_policy="evict_last")
    if residual_ptr is not None:
        x += tl.load(residual_ptr + row * residual_row + columns, mask=inside, other=0.0).to(tl.float32)
        total = narrow(x, total_ptr.dtype.element_ty)
        tl.store(total_ptr + row * total_row + columns, total, mask=inside)
        x = total.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(tl.sum(x * x, 1), 0) / D + eps)
    if rstd_ptr is not None:
        tl.store(rstd_ptr + row, rstd)
    # 1/rms scales a tile's magnitude instead of its 128 values; it is needed only after the sum over the row.
    x *= weight.to(tl.float32)
    if rows_ptr is not None:
        tl.store(rows_ptr + row * rows_row + columns, narrow(x * rstd, rows_ptr.dtype.element_ty), mask=inside)
    scale, inverse = scale_of(magnitude(x, 1) * rstd, clamp, False)
    tl.store(codes_ptr + row * codes_row + columns, to_e4m3(x * (inverse * rstd)[:, None]), mask=inside)
    at = row * scales_row + tile.to(tl.int64) * scales_column
    tl.store(scales_ptr + at, scale, mask=tile * 128 < D)


def launches(
    x: Tensor, residual: Tensor | None, weight: Tensor, codes: Tensor, scales: Tensor, total: Tensor | None,
    rows: Tensor | None, rstd: Tensor | None, *, eps: float, clamp: float, config: Config,
) -> tuple[Launch, ...]:  # fmt: skip
    """As the launchers' arguments and results."""
    (M, D), (blocks, options) = x.shape, split(config)
    args = {
        "x_ptr": x, "residual_ptr": residual, "weight_ptr": weight, "codes_ptr": codes, "scales_ptr": scales,
        "total_ptr": total, "rows_ptr": rows, "rstd_ptr": rstd, "D": D, "x_row": x.stride(0),
        "residual_row": 0 if residual is None else residual.stride(0), "codes_row": codes.stride(0),
        "scales_row": scales.stride(0), "scales_column": scales.stride(1),
        "total_row": 0 if total is None else total.stride(0), "rows_row": 0 if rows is None else rows.stride(0),
        "eps": eps, "clamp": clamp, "TILES": triton.next_power_of_2(cdiv(D, TILE)), **blocks,
    }  # fmt: skip
    return (Launch(kernel, (M,), args, options),)


def rms_norm_quantize(
    x: Tensor,
    weight: Tensor,
    eps: float,
    *,
    clamp: float = ACTIVATION,
    rows: bool = False,
    rstd: bool = False,
    config: Config | None = None,
) -> tuple[Tensor, ...]:
    """x (M, D), weight (D) -> codes (M, D) e4m3, scales (M, W), as ``reference``; with ``rows`` the normalised rows
    besides, in x's dtype, and with ``rstd`` each row's 1/rms (M) float32, as the norm's backward reads it.

    The scales are stored column by column. Raises ValueError.
    """
    op = "rms_norm_quantize"
    check(op, x, None, weight, eps, clamp)
    config = config or tables.choose(op, x.device, M=x.shape[0], D=x.shape[1])
    codes, scales, *besides = made(x, None, weight, eps, clamp, rows, rstd, config)
    return (codes, scales, *(part for part in besides if part is not None))


def add_rms_norm_quantize(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, clamp: float = ACTIVATION, rows: bool = False,
    config: Config | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """x and residual (M, D), weight (D) -> codes, scales, x + residual, as ``reference_add``; with ``rows`` the
    normalised rows besides, in x's dtype. Raises ValueError.
    """
    op = "add_rms_norm_quantize"
    check(op, x, residual, weight, eps, clamp)
    config = config or tables.choose(op, x.device, M=x.shape[0], D=x.shape[1])
    codes, scales, *besides = made(x, residual, weight, eps, clamp, rows, False, config)
    return (codes, scales, *(part for part in besides if part is not None))


def made(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, clamp: float, rows: bool, rstd: bool, config: Config
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Both launchers, their arguments checked: codes, scales, the sum, the normalised rows, 1/rms."""
    (M, D), where = x.shape, x.device
    codes, scales = torch.empty(M, D, dtype=FP8, device=where), empty_scales(M, cdiv(D, TILE), where)
    total = None if residual is None else torch.empty(M, D, dtype=residual.dtype, device=where)
    normalised = torch.empty(M, D, dtype=x.dtype, device=where) if rows else None
    inverse = torch.empty(M, dtype=torch.float32, device=where) if rstd else None
    outputs = codes, scales, total, normalised, inverse
    if not x.is_meta and D:
        run(launches(x, residual, weight, *outputs, eps=eps, clamp=clamp, config=config))
    return outputs


def check(op: str, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, clamp: float) -> None:
    """What both launchers ask of their arguments. Raises ValueError."""
    checks.tensor(op, "x", x, WIDE, (None, None), aligned=False)
    if residual is not None:
        checks.tensor(op, "residual", residual, WIDE, x.shape, aligned=False)
    checks.tensor(op, "weight", weight, WIDE, x.shape[1:], aligned=False)
    checks.device(op, NEEDS, x, weight, *([] if residual is None else [residual]))
    if x.shape[1] > MOST:
        raise ValueError(f"{op}: x has rows of {x.shape[1]} columns, expected at most {MOST}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"{op}: eps is {eps}, expected a finite number of at least 0")
    quantize.check(op, x, 2, clamp)


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches of an operation at a table's shape on the meta device, for compilation ahead of time."""
    M, D = shape["M"], shape["D"]

    def empty(*size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    x, codes, scales = empty(M, D), empty(M, D, dtype=FP8), empty_scales(M, cdiv(D, TILE), torch.device("meta"))
    residual, total = (empty(M, D), empty(M, D)) if op == "add_rms_norm_quantize" else (None, None)
    return launches(x, residual, empty(D), codes, scales, total, None, None, eps=1e-6, clamp=ACTIVATION, config=config)


CANDIDATES = {
    op: [{"num_warps": warps} for warps in (8, 4, 16)] for op in ("rms_norm_quantize", "add_rms_norm_quantize")
}
TABLE_SHAPES = {op: [{"M": M, "D": 7168} for M in (64, 4096, 16384)] for op in CANDIDATES}
