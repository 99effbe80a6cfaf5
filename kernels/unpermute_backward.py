"""The gradient of the combine: each choice's row and gate, and zeros where no choice is (see permute.py).

    clear                       zeros into rows of padding; also for permute
    kernel_unpermute_backward   Triton

T tokens  K choices per token  D width  R rows
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels.casts import narrow
from v3bench.kernels.launch import Config, Launch, cdiv, split
from v3bench.kernels.order import Order

FILL = 32  # rows that a program fills with zeros or scales
BACKWARD: Config = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def clear(rows_ptr, padding, first, row_step, D, COLUMNS: tl.constexpr, FILL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Zeros into the rows first .. first + FILL that are padding."""
    rows = (first + tl.arange(0, FILL)).to(tl.int64)
    if tl.max(padding.to(tl.int32), 0) > 0:
        for start in range(0, D, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            zeros = tl.zeros((FILL, COLUMNS), rows_ptr.dtype.element_ty)
            inside = padding[:, None] & (columns < D)[None, :]
            tl.store(rows_ptr + rows[:, None] * row_step + columns[None, :], zeros, mask=inside)


@triton.jit
def kernel_unpermute_backward(  # type: ignore[no-untyped-def]
    grad_ptr, y_ptr, gates_ptr, rows_ptr, tokens_ptr, dy_ptr, dgates_ptr, N, R, D, grad_row, y_row, dy_row,
    K: tl.constexpr, FILL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first programs: a choice's gate times grad into its row, and the gate's gradient; the last: zeros."""
    pair = tl.program_id(0)
    if pair < N:
        row = tl.load(rows_ptr + pair)
        gate = tl.load(gates_ptr + pair)
        along = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, D, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = (columns < D) & (row >= 0) & (row < R)
            grad = tl.load(grad_ptr + (pair // K).to(tl.int64) * grad_row + columns, mask=inside, other=0.0)
            y = tl.load(y_ptr + row.to(tl.int64) * y_row + columns, mask=inside, other=0.0)
            along += grad.to(tl.float32) * y.to(tl.float32)
            dy = narrow(gate * grad.to(tl.float32), dy_ptr.dtype.element_ty)
            tl.store(dy_ptr + row.to(tl.int64) * dy_row + columns, dy, mask=inside)
        tl.store(dgates_ptr + pair, tl.where(row < R, tl.sum(along, 0), float("nan")))
    else:
        first = (pair - N) * FILL
        rows = first + tl.arange(0, FILL)
        padding = tl.load(tokens_ptr + rows, mask=rows < R, other=0) < 0
        clear(dy_ptr, padding, first, dy_row, D, 128, FILL)


def launches_unpermute_backward(
    grad: Tensor, y: Tensor, gates: Tensor, made: Order, dy: Tensor, dgates: Tensor, *, config: Config | None = None
) -> tuple[Launch, ...]:
    """grad (T, D), y, gates as given to ``unpermute``; dy (R, D) and dgates (T, K) are written."""
    (T, K), (R, D), (blocks, options) = made.rows.shape, y.shape, split(config or BACKWARD)
    args = {
        "grad_ptr": grad, "y_ptr": y, "gates_ptr": gates, "rows_ptr": made.rows, "tokens_ptr": made.tokens,
        "dy_ptr": dy, "dgates_ptr": dgates, "N": T * K, "R": R, "D": D, "grad_row": grad.stride(0),
        "y_row": y.stride(0), "dy_row": dy.stride(0), "K": K, "FILL": FILL, **blocks,
    }  # fmt: skip
    return (Launch(kernel_unpermute_backward, (T * K + cdiv(R, FILL),), args, options),)
