"""What the block-scaled FP8 GEMMs have in common: the order of their tiles, and the order of their promotions.

place       the tile of a program, in bands of rows that share their columns in the L2
pinned      a promoted sum, made before whatever follows
descriptor  a matrix as the bulk copy engine addresses it
sms         how many SMs a persistent grid is made for
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor
from v3bench.kernels.casts import INTERPRETED
from v3bench.kernels.checks import ALIGNMENT
from v3bench.kernels.launch import cdiv, sms


@triton.jit
def place(tile, rows, columns, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Tile number -> (row, column) of a grid of rows x columns tiles, in bands of GROUP rows, a band column by column.

    The tiles in flight then form a block about as high as wide, which reads the fewest operands from memory.
    """
    band = tile // (GROUP * columns)
    within = tile % (GROUP * columns)
    height = tl.minimum(rows - band * GROUP, GROUP)
    return band * GROUP + within % height, within // height


@triton.jit
def pinned(x):  # type: ignore[no-untyped-def]
    """x, computed before any matrix product that stands after it.

    Without this the compiler moves the promotions of all parts of a tile to the end of the loop. Every part's product
    is then alive at once: 255 registers and spills, where one product after the other needs 220.
    """
    if INTERPRETED:
        return x
    else:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=False, pack=1)


@triton.jit
def zeros(ROWS: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """PARTS sums of ROWS x PART, in a tuple."""
    parts = ()
    for _ in tl.static_range(PARTS):
        parts = joined(parts, tl.zeros((ROWS, PART), tl.float32))
    return parts


@triton.jit
def joined(parts, part):  # type: ignore[no-untyped-def]
    """The parts of a tile and one more."""
    return parts + (part,)  # noqa: RUF005


def descriptor(matrix: Tensor, block: tuple[int, int]) -> TensorDescriptor:
    """A matrix, dense along its rows, for copies of ``block``: outside they read zeros and write nothing."""
    (rows, columns), step = matrix.shape, ALIGNMENT // matrix.itemsize
    stride = matrix.stride(0) if rows > 1 else cdiv(columns, step) * step  # a single row's stride may be anything
    return TensorDescriptor(matrix, [rows, columns], [stride, 1], list(block))


def programs(tiles: int, per_sm: int, device: torch.device) -> int:
    """Programs of a persistent grid with ``per_sm`` on each SM; 0: as many as there are tiles.

    No more than take equally many rounds: 288 tiles on 132 SMs are three rounds, which 96 programs do as fast.
    """
    return cdiv(tiles, cdiv(tiles, per_sm * sms(device))) if per_sm and tiles else tiles
