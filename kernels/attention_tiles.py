"""How the attention kernels read their tiles, for every head width: by the bulk copy engine or by pointers.

    tile       a tile of rows of one head, inside a kernel
    store      a tile of results into a contiguous tensor, inside a kernel
    bounds     the keys that a block of queries sees, inside a kernel
    place      which block of which head a program has, inside a kernel
    Mask       which keys each query sees
    Widths     how a head's width is cut into powers of two: 192 is 128 + 64, 24 is 32 with a mask
    source     a tensor as ``tile`` reads it

Tensors are (batch, rows, heads, width) with any strides but a dense last dimension. Where base and strides are
multiples of 16 bytes the bulk copy engine reads them and fills what lies outside with zeros; else masked loads do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor
from v3bench.kernels.casts import narrow

ALIGNMENT = 16  # bytes that the bulk copy engine asks of addresses and strides
SMALLEST = 16  # the least depth of a matrix product
WIDEST = 128  # of one product; a wider head is cut in two
MOST = 256  # the widest head


@triton.jit
def tile(  # type: ignore[no-untyped-def]
    source, batch, first, head, column, by_batch, by_row, by_head, rows, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BULK: tl.constexpr, AGAIN: tl.constexpr = False,
):  # fmt: skip
    """(ROWS, COLUMNS) of one head from row ``first`` and ``column`` on; zeros beyond ``rows`` and ``width``."""
    if BULK:
        return source.load([batch, first, head, column]).reshape(ROWS, COLUMNS)
    else:
        return resident(
            source, batch, first, head, column, by_batch, by_row, by_head, rows, width, ROWS, COLUMNS, AGAIN
        )  # fmt: skip


@triton.jit
def resident(  # type: ignore[no-untyped-def]
    pointer, batch, first, head, column, by_batch, by_row, by_head, rows, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, AGAIN: tl.constexpr = False,
):  # fmt: skip
    """The same by masked loads: for what a program reads once and multiplies often.

    As the left side of a product it stays in shared memory, where a reshaped bulk copy would move to registers. An
    exact product has both sides in registers, where a row kept through a loop has no room: with AGAIN it is read again
    in every pass, and not moved out of the loop.
    """
    row = first + tl.arange(0, ROWS)
    at = column + tl.arange(0, COLUMNS)
    start = batch.to(tl.int64) * by_batch + head.to(tl.int64) * by_head
    inside = (row < rows)[:, None] & (at < width)[None, :]
    pointers = pointer + start + row.to(tl.int64)[:, None] * by_row + at[None, :]
    return tl.load(pointers, mask=inside, other=0.0, volatile=AGAIN)


@triton.jit
def bounds(  # type: ignore[no-untyped-def]
    first, shift, end, window, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr
):
    """Keys that queries ``first`` .. first + BLOCK_M see: from ``low``, all of them below ``full``, none from ``high``.

    ``shift`` is the position of query 0, ``end`` the number of valid keys; low and full are multiples of BLOCK_N.
    """
    low, high, full = 0, end, end
    if CAUSAL:
        high = tl.minimum(end, shift + first + BLOCK_M)
        full = tl.minimum(end, shift + first + 1)
    if WINDOW:
        low = tl.maximum(shift + first - window + 1, 0) // BLOCK_N * BLOCK_N
        full = 0
    return low, tl.maximum(tl.maximum(full, 0) // BLOCK_N * BLOCK_N, low), high


@triton.jit
def place(S, H, BLOCK_M: tl.constexpr, HEADS: tl.constexpr):  # type: ignore[no-untyped-def]
    """(block of queries, head, batch) of this program: HEADS side by side; the last blocks, the longest, first."""
    blocks = tl.cdiv(S, BLOCK_M)
    batch = tl.program_id(1)
    first = tl.program_id(0) // (blocks * HEADS) * HEADS
    beside = tl.minimum(H - first, HEADS)
    within = tl.program_id(0) - first * blocks
    return blocks - 1 - within // beside, first + within % beside, batch


@triton.jit
def store(  # type: ignore[no-untyped-def]
    out, x, batch, first, head, column, rows, heads, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BULK: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """x (ROWS, COLUMNS) float32 into a contiguous (batch, rows, heads, width), rounded to its type."""
    x = narrow(x, TYPE)
    if BULK:
        out.store([batch, first, head, column], x.reshape(1, ROWS, 1, COLUMNS))
    else:
        row, at = first + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
        start = (batch.to(tl.int64) * rows * heads + head) * width
        inside = (row < rows)[:, None] & (at < width)[None, :]
        tl.store(out + start + row.to(tl.int64)[:, None] * (heads * width) + at[None, :], x, mask=inside)


@dataclass(frozen=True)
class Mask:
    """Which keys each query sees, as ``visible`` in attention.py; lengths int32 or int64 (batch)."""

    causal: bool = True
    window: int | None = None
    lengths: Tensor | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """As the kernels name them."""
        windowed = self.window is not None
        return {
            "lengths_ptr": self.lengths, "window": self.window or 0, "CAUSAL": self.causal, "WINDOW": windowed
        }  # fmt: skip


@dataclass(frozen=True)
class Widths:
    """A query's and key's width d as head + tail, a value's width v, each padded to a power of two (tail: or 0)."""

    head: int
    tail: int
    value: int

    @classmethod
    def of(cls, d: int, v: int) -> Widths:
        """Padding by a mask costs up to twice the products, so a wide head is cut: 192 as 128 + 64, not 256."""
        tail = padded(d - WIDEST) if d > WIDEST else 0
        return cls(WIDEST if tail else padded(d), tail, padded(v))

    @property
    def last(self) -> int:
        """The width of the piece that is read last."""
        return self.tail or self.head

    @property
    def constexprs(self) -> dict[str, int]:
        """As the kernels name them."""
        return {"HEAD": self.head, "TAIL": self.tail, "VALUE": self.value}


def padded(n: int) -> int:
    """The next power of two, at least 16."""
    return max(SMALLEST, 1 << (n - 1).bit_length())


def bulk(*tensors: Tensor) -> bool:
    """Whether the bulk copy engine can read all of them: dense and aligned, nothing empty or repeated."""
    return all(
        t.stride(-1) == 1
        and t.data_ptr() % ALIGNMENT == 0
        and t.numel() > 0
        and all(s > 0 and s * t.itemsize % ALIGNMENT == 0 for s in t.stride()[:-1])
        for t in tensors
    )


def source(x: Tensor, rows: int, columns: int, described: bool) -> Any:
    """x (batch, rows, heads, width) as ``tile`` reads it in pieces of (rows, columns)."""
    return TensorDescriptor.from_tensor(x, [1, rows, 1, columns]) if described else x


def element(x: Tensor) -> Any:
    """A tensor's type, as the kernels name it."""
    return {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}[x.dtype]


def strides(name: str, x: Tensor) -> dict[str, int]:
    """A tensor's strides, as the kernels name them."""
    return {f"{name}_batch": x.stride(0), f"{name}_row": x.stride(1), f"{name}_head": x.stride(2)}
