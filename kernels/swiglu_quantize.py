"""SwiGLU and FP8 tiles in one pass: what enters the second matrix of a feed-forward network (swiglu.py, quantize.py).

    reference            the definition
    kernel               Triton
    swiglu_quantize      launcher, also for stacks of experts that hold fewer rows than there is room for

The float32 values are quantised as they are, not rounded to bfloat16 in between. A row may have a weight, its token's
gate, which scales the values before they are quantised: it is named by the row's choice (Order.pairs of order.py), or
stands in the row's place. Rows without a choice get zeros, those of a choice that has no weight NaN. In a stack
(E, R, 2F) only the first masked_m rows of each expert are read and written.

M rows  F columns of the result  W = ceil(F/128) tiles  E experts with room for R rows each
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, quantize, swiglu, tables
from v3bench.kernels.casts import magnitude, to_e4m3
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.quantize import ACTIVATION, FP8, NEEDS, TILE, WIDE, empty_scales, scale_of
from v3bench.kernels.sigmoid import sigmoid

OP = "swiglu_quantize"


def reference(
    gate_up: Tensor, weights: Tensor | None = None, pairs: Tensor | None = None, masked_m: Tensor | None = None,
    *, clamp: float = ACTIVATION,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """gate_up (M, 2F) -> codes (M, F) e4m3, scales (M, W) float32; weights (M), or (N) picked by pairs (M), -1: none.

    With masked_m (E), gate_up (E, R, 2F): codes (E, R, F), scales (E, R, W), zero in the rows that are not there.
    """
    y = swiglu.reference(gate_up.float())
    if weights is not None:
        own = weights if pairs is None else weights[pairs.long().clamp(min=0)]
        y = y * own.view(-1, 1)
        if pairs is not None:
            y = y.masked_fill((pairs < 0)[:, None], 0.0)
    codes, scales = quantize.reference_tiles(y.flatten(0, -2), clamp=clamp)
    codes, scales = codes.view(y.shape), scales.unflatten(0, y.shape[:-1])
    if masked_m is not None:
        missing = (torch.arange(y.shape[1], device=y.device) >= masked_m[:, None])[..., None]  # (E, R, 1)
        codes = codes.view(torch.uint8).masked_fill(missing, 0).view(FP8)
        scales = scales.masked_fill(missing, 0.0)
    return codes, scales


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    gate_up_ptr, weights_ptr, pairs_ptr, masked_ptr, codes_ptr, scales_ptr, N, R, F, gate_up_row, codes_row,
    scales_row, scales_column, clamp, ROWS: tl.constexpr,
):  # fmt: skip
    """One program: ROWS rows of one expert, one tile of 128 columns; neighbours share the rows."""
    tiles = tl.cdiv(F, 128)
    tile, block = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    own = block * ROWS + tl.arange(0, ROWS)
    there = R
    if masked_ptr is not None:
        there = tl.minimum(tl.load(masked_ptr + tl.program_id(1)), R)
    if block * ROWS < there:
        rows = tl.program_id(1).to(tl.int64) * R + own
        columns = tile * 128 + tl.arange(0, 128)
        inside = (own < there)[:, None] & (columns < F)[None, :]
        at = gate_up_ptr + rows[:, None] * gate_up_row + columns[None, :]
        gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(at + F, mask=inside, other=0.0).to(tl.float32)
        y = gate * sigmoid(gate) * up
        if weights_ptr is not None:
            if pairs_ptr is not None:
                pair = tl.load(pairs_ptr + rows, mask=own < there, other=-1)
                weight = tl.load(weights_ptr + pair, mask=(pair >= 0) & (pair < N), other=float("nan"))
                weight = tl.where(pair >= 0, weight, 0.0)
                y = tl.where((pair >= 0)[:, None], y, 0.0)  # padding may hold anything
            else:
                weight = tl.load(weights_ptr + rows, mask=own < there, other=0.0)
            y *= weight[:, None]
        scale, inverse = scale_of(magnitude(y, 1), clamp, False)
        tl.store(codes_ptr + rows[:, None] * codes_row + columns[None, :], to_e4m3(y * inverse[:, None]), mask=inside)
        tl.store(scales_ptr + rows * scales_row + tile.to(tl.int64) * scales_column, scale, mask=own < there)


def launches(
    gate_up: Tensor, weights: Tensor | None, pairs: Tensor | None, masked_m: Tensor | None, codes: Tensor,
    scales: Tensor, *, clamp: float, config: Config,
) -> tuple[Launch, ...]:  # fmt: skip
    """As the launcher's arguments and results, with all rows in one dimension: gate_up (E R, 2F)."""
    (M, F), (blocks, options) = codes.shape, split(config)
    E = 1 if masked_m is None else len(masked_m)
    args = {
        "gate_up_ptr": gate_up, "weights_ptr": weights, "pairs_ptr": pairs, "masked_ptr": masked_m,
        "codes_ptr": codes, "scales_ptr": scales, "N": 0 if weights is None else len(weights), "R": M // E,
        "F": F, "gate_up_row": gate_up.stride(0), "codes_row": codes.stride(0), "scales_row": scales.stride(0),
        "scales_column": scales.stride(1), "clamp": clamp, **blocks,
    }  # fmt: skip
    return (Launch(kernel, (cdiv(M // E, blocks["ROWS"]) * cdiv(F, TILE), E), args, options),)


def swiglu_quantize(
    gate_up: Tensor, weights: Tensor | None = None, pairs: Tensor | None = None, masked_m: Tensor | None = None,
    *, clamp: float = ACTIVATION, config: Config | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """gate_up (M, 2F), the gate half first -> codes (M, F) e4m3, scales (M, W) float32, as ``reference``.

    ``weights`` float32 (M), or (N) of which int32 ``pairs`` (M) name each row's. With int32 ``masked_m`` (E), gate_up
    (E, R, 2F), contiguous -> codes (E, R, F), scales (E, R, W), of which only the first masked_m rows of each expert
    are written. The scales are stored column by column over all rows. Raises ValueError.
    """
    *size, F = check(gate_up, weights, pairs, masked_m, clamp)
    flat = gate_up.flatten(0, -2)
    M, W = len(flat), cdiv(F, TILE)
    codes, scales = torch.empty(M, F, dtype=FP8, device=flat.device), empty_scales(M, W, flat.device)
    config = config or tables.choose(OP, flat.device, M=M, F=F)
    if not flat.is_meta and codes.numel():
        run(launches(flat, weights, pairs, masked_m, codes, scales, clamp=clamp, config=config))
    return codes.view(*size, F), scales.view(*size, W)


def check(
    gate_up: Tensor, weights: Tensor | None, pairs: Tensor | None, masked_m: Tensor | None, clamp: float
) -> tuple[int, ...]:
    """The shape of the codes. Raises ValueError."""
    stacked = masked_m is not None
    checks.tensor(OP, "gate_up", gate_up, WIDE, (None,) * (3 if stacked else 2), contiguous=stacked, aligned=False)
    *size, width = gate_up.shape
    if width % 2:
        raise ValueError(f"{OP}: gate_up has {width} columns, expected a gate half and an up half of one width")
    every = {"weights": weights, "pairs": pairs, "masked_m": masked_m}
    given = {name: part for name, part in every.items() if part is not None}
    checks.tensors(OP, **given)
    checks.device(OP, NEEDS, gate_up, *given.values())
    if masked_m is not None:
        checks.tensor(OP, "masked_m", masked_m, torch.int32, (size[0],), contiguous=True, aligned=False)
        if weights is not None or pairs is not None:
            raise ValueError(f"{OP}: weights go with rows in one dimension, not with masked_m")
    if pairs is not None:
        checks.tensor(OP, "pairs", pairs, torch.int32, (size[0],), contiguous=True, aligned=False)
        if weights is None:
            raise ValueError(f"{OP}: pairs name a row's weight, but weights is None")
    if weights is not None:
        rows = None if pairs is not None else size[0]
        checks.tensor(OP, "weights", weights, torch.float32, (rows,), contiguous=True, aligned=False)
    quantize.check(OP, gate_up, gate_up.ndim, clamp)
    return (*size, width // 2)


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches at a table's shape on the meta device, for compilation ahead of time."""
    M, F, meta = shape["M"], shape["F"], torch.device("meta")
    gate_up = torch.empty(M, 2 * F, dtype=torch.bfloat16, device=meta)
    codes, scales = torch.empty(M, F, dtype=FP8, device=meta), empty_scales(M, cdiv(F, TILE), meta)
    return launches(gate_up, None, None, None, codes, scales, clamp=ACTIVATION, config=config)


CANDIDATES = {
    OP: [
        {"ROWS": rows, "num_warps": warps}
        for rows, warps in ((16, 4), (16, 2), (32, 4), (32, 8), (8, 2), (8, 1), (4, 1), (2, 1), (1, 1), (4, 2))
    ]
}
TABLE_SHAPES = {OP: [{"M": M, "F": F} for M in (64, 4096, 16384) for F in (2048, 18432)]}
