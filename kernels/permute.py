"""Dispatch and combine inside one GPU: rows copied to where their experts read them, and gathered back.

    reference_permute, reference_unpermute    the definitions
    kernel_permute, kernel_unpermute          Triton
    permute, unpermute                        launchers, over an Order (order.py); differentiable in rows and gates

A program takes a whole token, so that its row is read once, however many experts it goes to; the sum over a token's
experts runs in float32, in the order of its choices. Rows that no choice got are filled with zeros: a padded segment
adds nothing to a weight gradient. A choice without a row adds nothing to its token. An Order built by hand is checked
as it is built; numbers in it that only the GPU sees, and that are out of range, are not followed: such a token's sum,
and such a row's scales, are NaN.

T tokens  K choices per token  D width  W = ceil(D/128) tiles  R rows  (Order: rows (T, K), pairs and tokens (R))
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from v3bench.kernels import checks, order, tables
from v3bench.kernels.casts import narrow
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.order import NEEDS, Order
from v3bench.kernels.quantize import FP8, TILE, empty_scales
from v3bench.kernels.unpermute_backward import BACKWARD, FILL, clear, launches_unpermute_backward

WIDE = (torch.bfloat16, torch.float16, torch.float32)
COLUMNS = 32  # scales of a row that are loaded together


def reference_permute(x: Tensor, made: Order, scales: Tensor | None = None) -> Any:
    """x (T, D) -> (R, D), zero in padding; with scales (T, W) a pair of both."""
    source, padding = made.tokens.long().clamp(min=0), (made.tokens < 0)[:, None]
    if x.dtype == FP8:  # as bytes: torch has no masked_fill of e4m3
        copied = x.view(torch.uint8)[source].masked_fill(padding, 0).view(FP8)
    else:
        copied = x[source].masked_fill(padding, 0.0)
    return copied if scales is None else (copied, scales[source].masked_fill(padding, 0.0))


def reference_unpermute(y: Tensor, made: Order, gates: Tensor | None = None) -> Tensor:
    """y (R, D), gates (T, K) or None for ones -> (T, D), rounded once to y's dtype."""
    there = (made.rows >= 0)[..., None]
    wide = torch.promote_types(y.dtype, torch.float32)
    rows = y[made.rows.long().clamp(min=0)].to(wide).masked_fill(~there, 0.0)  # (T, K, D)
    if gates is not None:
        rows = rows * gates[..., None].masked_fill(~there, 0.0)
    return rows.sum(1).to(y.dtype)


@triton.jit
def kernel_permute(  # type: ignore[no-untyped-def]
    x_ptr, scales_ptr, rows_ptr, tokens_ptr, out_ptr, out_scales_ptr, T, R, D, W, x_row, scales_row, scales_column,
    out_row, out_scales_row, out_scales_column,
    K: tl.constexpr, SCALES: tl.constexpr, FILL: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first programs: FILL rows' scales, and zeros into padding, while the others stream; the others: a stretch of
    one token's row (in words of 4 bytes) to its K places."""
    stretches, fills = tl.cdiv(D, BLOCK), tl.cdiv(R, FILL)
    program = tl.program_id(0) - fills
    if program >= 0:
        token = program // stretches
        columns = program % stretches * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + token.to(tl.int64) * x_row + columns, mask=columns < D)
        places = ()  # all loaded before the first store, behind which a load would have to wait
        for k in tl.static_range(K):
            row = tl.load(rows_ptr + token * K + k)
            places += (tl.where(row < R, row, -1),)  # type: ignore[assignment]
        for k in tl.static_range(K):
            row = places[k]
            tl.store(out_ptr + row.to(tl.int64) * out_row + columns, x, mask=(columns < D) & (row >= 0))
    else:
        first = (program + fills) * FILL
        rows = first + tl.arange(0, FILL)
        source = tl.load(tokens_ptr + rows, mask=rows < R, other=0)
        padding = (source < 0) & (rows < R)
        clear(out_ptr, padding, first, out_row, D, 128, FILL)
        if SCALES:
            known = (source >= 0) & (source < T)
            otherwise = tl.where(source < T, 0.0, float("nan"))
            origin = tl.where(known, source, 0).to(tl.int64)[:, None] * scales_row
            target = rows.to(tl.int64)[:, None] * out_scales_row
            for start in range(0, W, COLUMNS):
                column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
                inside = (rows < R)[:, None] & (column < W)
                at = scales_ptr + origin + column * scales_column
                scale = tl.load(at, mask=inside & known[:, None], other=otherwise[:, None])
                tl.store(out_scales_ptr + target + column * out_scales_column, scale, mask=inside)


@triton.jit
def kernel_unpermute(  # type: ignore[no-untyped-def]
    y_ptr, gates_ptr, rows_ptr, out_ptr, R, D, y_row, out_row,
    K: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK columns of one token, the sum of its K rows."""
    token = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total, last = tl.zeros((BLOCK,), tl.float32), -1
    for k in tl.static_range(K):
        row = tl.load(rows_ptr + token * K + k)
        last = tl.maximum(last, row)
        row = tl.where(row < R, row, -1)
        y = tl.load(y_ptr + row.to(tl.int64) * y_row + columns, mask=(columns < D) & (row >= 0), other=0.0)
        if GATED:
            total += tl.load(gates_ptr + token * K + k, mask=row >= 0, other=0.0) * y.to(tl.float32)
        else:
            total += y.to(tl.float32)
    total = narrow(tl.where(last < R, total, float("nan")), out_ptr.dtype.element_ty)
    tl.store(out_ptr + token.to(tl.int64) * out_row + columns, total, mask=columns < D)


def launches_permute(
    x: Tensor, scales: Tensor | None, made: Order, out: Tensor, out_scales: Tensor | None, *, config: Config
) -> tuple[Launch, ...]:
    """As the launcher's arguments and results."""
    (T, K), R, (blocks, options) = made.rows.shape, len(made.tokens), split(config)
    words, placed = x.view(torch.int32), out.view(torch.int32)
    args: dict[str, Any] = {
        "x_ptr": words, "scales_ptr": None, "rows_ptr": made.rows, "tokens_ptr": made.tokens, "out_ptr": placed,
        "out_scales_ptr": None, "T": T, "R": R, "D": words.shape[1], "W": 0, "x_row": words.stride(0),
        "scales_row": 0, "scales_column": 0, "out_row": placed.stride(0), "out_scales_row": 0, "out_scales_column": 0,
        "K": K, "SCALES": scales is not None, "FILL": FILL, "COLUMNS": COLUMNS, **blocks,
    }  # fmt: skip
    if scales is not None and out_scales is not None:
        args |= {
            "scales_ptr": scales, "out_scales_ptr": out_scales, "W": scales.shape[1], "scales_row": scales.stride(0),
            "scales_column": scales.stride(1), "out_scales_row": out_scales.stride(0),
            "out_scales_column": out_scales.stride(1),
        }  # fmt: skip
    grid = T * cdiv(words.shape[1], blocks["BLOCK"]) + cdiv(R, FILL)
    return (Launch(kernel_permute, (grid,), args, options),)


def permute(x: Tensor, made: Order, scales: Tensor | None = None, *, config: Config | None = None) -> Any:
    """x (T, D) -> its rows by expert (R, D), as ``reference_permute``; with scales (T, W) float32 a pair of both.

    The scales are stored column by column, as GEMMs read them. Without scales differentiable in x. Raises ValueError.
    """
    T = len(made.rows)
    checks.tensor("permute", "x", x, (*WIDE, FP8), (T, None))
    if x.shape[1] * x.itemsize % checks.ALIGNMENT or not x.shape[1]:
        raise ValueError(f"permute: x has rows of {x.shape[1] * x.itemsize} bytes, expected a multiple of 16")
    checks.tensors("permute", **({} if scales is None else {"scales": scales}))
    if scales is not None and (scales.dtype != torch.float32 or scales.shape != (T, cdiv(x.shape[1], TILE))):
        given = f"{checks.short(scales.dtype)} {tuple(scales.shape)}"
        raise ValueError(f"permute: scales is {given}, expected float32 ({T}, {cdiv(x.shape[1], TILE)})")
    checks.device("permute", NEEDS, x, *made.parts, *([] if scales is None else [scales]))
    config = config or tables.choose("permute", x.device, T=T, K=made.rows.shape[1], D=x.shape[1])
    if torch.is_grad_enabled() and x.requires_grad:
        if scales is not None:
            raise ValueError("permute: x needs a gradient; codes with scales have none")
        return Permute.apply(x, made, config)
    return copied(x, scales, made, config)


def copied(x: Tensor, scales: Tensor | None, made: Order, config: Config) -> Any:
    """``permute`` of checked arguments, without a gradient."""
    R = len(made.tokens)
    out = torch.empty(R, x.shape[1], dtype=x.dtype, device=x.device)
    placed = None if scales is None else empty_scales(R, scales.shape[1], x.device)
    if not x.is_meta:
        run(launches_permute(x, scales, made, out, placed, config=config))
    return out if scales is None else (out, placed)


def launches_unpermute(
    y: Tensor, gates: Tensor | None, made: Order, out: Tensor, *, config: Config
) -> tuple[Launch, ...]:
    """As the launcher's arguments and result."""
    (T, K), D, (blocks, options) = made.rows.shape, y.shape[1], split(config)
    args = {
        "y_ptr": y, "gates_ptr": gates, "rows_ptr": made.rows, "out_ptr": out, "R": len(y), "D": D,
        "y_row": y.stride(0), "out_row": out.stride(0), "K": K, "GATED": gates is not None, **blocks,
    }  # fmt: skip
    return (Launch(kernel_unpermute, (T, cdiv(D, blocks["BLOCK"])), args, options),)


def unpermute(y: Tensor, made: Order, gates: Tensor | None = None, *, config: Config | None = None) -> Tensor:
    """y (R, D), gates (T, K) float32 or None for ones -> (T, D), as ``reference_unpermute``; differentiable.

    Raises ValueError.
    """
    checks.tensor("unpermute", "y", y, WIDE, (len(made.tokens), None))
    if gates is not None:
        checks.tensor("unpermute", "gates", gates, torch.float32, made.rows.shape, contiguous=True, aligned=False)
    checks.device("unpermute", NEEDS, y, *made.parts, *([] if gates is None else [gates]))
    (T, K), D = made.rows.shape, y.shape[1]
    config = config or tables.choose("unpermute", y.device, T=T, K=K, D=D)
    if torch.is_grad_enabled() and (y.requires_grad or (gates is not None and gates.requires_grad)):
        out: Tensor = Unpermute.apply(y, gates, made, config)
        return out
    return summed(y, gates, made, config)


def summed(y: Tensor, gates: Tensor | None, made: Order, config: Config) -> Tensor:
    """``unpermute`` of checked arguments, without a gradient."""
    out = torch.empty(len(made.rows), y.shape[1], dtype=y.dtype, device=y.device)
    if not y.is_meta:
        run(launches_unpermute(y, gates, made, out, config=config))
    return out


class Permute(torch.autograd.Function):
    """Its gradient is the sum of each token's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, made: Order, config: Config) -> Tensor:
        ctx.made = made
        out: Tensor = copied(x, None, made, config)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return summed(grad.contiguous(), None, ctx.made, BACKWARD), None, None


class Unpermute(torch.autograd.Function):
    """Its gradient is a weighted spread, zero in padding; a gate's is the product of its row with the token's."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, gates: Tensor | None, made: Order, config: Config) -> Tensor:
        ctx.save_for_backward(y, gates)
        ctx.made, ctx.config = made, config
        return summed(y, gates, made, config)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (y, gates), grad = ctx.saved_tensors, grad.contiguous()
        if gates is None:
            return copied(grad, None, ctx.made, BACKWARD), None, None, None
        dy, dgates = torch.empty_like(y, memory_format=torch.contiguous_format), torch.empty_like(gates)
        if not y.is_meta:
            run(launches_unpermute_backward(grad, y, gates, ctx.made, dy, dgates))
        return dy, dgates, None, None


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches of an operation at a table's shape on the meta device, for compilation ahead of time.

    Of "permute" with DeepSeek-V3's 256 experts, the order built first: what a layer does.
    """
    T, K, D = shape["T"], shape["K"], shape["D"]

    def empty(*size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    chosen = empty(T, K, dtype=torch.int64)
    sorting = order.blocks_for(chosen.numel())
    counts, parts = order.empty(chosen, 256, 1, sorting)
    made = Order(**parts)
    if op == "unpermute":
        y, out = empty(T * K, D, dtype=torch.bfloat16), empty(T, D, dtype=torch.bfloat16)
        return launches_unpermute(y, empty(T, K, dtype=torch.float32), made, out, config=config)
    x, out = empty(T, D, dtype=FP8), empty(T * K, D, dtype=FP8)
    scales, placed = (empty_scales(rows, cdiv(D, TILE), x.device) for rows in (T, T * K))
    return (
        *order.launches_order(chosen, counts, parts, align=1, config=sorting),
        *launches_permute(x, scales, made, out, placed, config=config),
    )


# A row of 7168 e4m3 is 1792 words: 7 stretches of 256 or, masked, one of 2048. Every thread keeps K stores of 16 bytes
# in flight, or, in the sum, K loads.
CANDIDATES = {
    "permute": [
        {"BLOCK": words, "num_warps": warps}
        for words, warps in ((2048, 4), (1024, 4), (512, 4), (256, 2), (256, 1), (512, 2), (1024, 8), (2048, 8))
    ],
    "unpermute": [
        {"BLOCK": columns, "num_warps": warps}
        for columns, warps in ((1024, 4), (512, 2), (256, 1), (1024, 2), (2048, 8), (2048, 4), (512, 1), (512, 4))
    ],
}
TABLE_SHAPES = {op: [{"T": T, "K": 8, "D": 7168} for T in (128, 4096, 16384)] for op in CANDIDATES}
