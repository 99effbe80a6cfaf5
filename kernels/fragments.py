"""In which order channels stand when codes of one byte are the wide side of a product on tensor cores.

A warpgroup's product takes its wide operand from registers: of every 16 columns a thread holds 2c, 2c+1, 2c+8, 2c+9, of
every 64 rows g and g+8 of its warp's 16. Bytes in the order of memory would be gathered one or two at a time. Which
channel stands where is free, as long as query and key, or value and result, agree: here a thread's channels are
neighbours in memory, and it reads 16 bytes of a key, 4 of a value at a time. On other layouts the order is as right.

    key_channel, keys        channels as columns, a multiple of 64
    value_channel, values    channels as rows, a multiple of 64
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def key_channel(column):  # type: ignore[no-untyped-def]
    """The channel at a column of ``keys``: bits a uu h cc e of the column are a cc uu h e of the channel."""
    return column // 64 * 64 + column // 2 % 4 * 16 + column // 16 % 4 * 4 + column // 8 % 2 * 2 + column % 2


@triton.jit
def keys(k, ROWS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """(ROWS, CHANNELS) in memory's order -> (ROWS, CHANNELS), a multiplication's left side."""
    bits = k.reshape(ROWS, CHANNELS // 64, 4, 4, 2, 2)  # a cc uu h e
    return bits.permute(0, 1, 3, 4, 2, 5).reshape(ROWS, CHANNELS)


@triton.jit
def value_channel(row, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The channel at a row of ``values``: bits r ww h ggg of the row are ww ggg r h of the channel."""
    return (row // 16 % 4 * 8 + row % 8) * (CHANNELS // 32) + row // 64 * 2 + row // 8 % 2


@triton.jit
def values(v, ROWS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """(ROWS, CHANNELS) in memory's order -> (CHANNELS, ROWS), a multiplication's left side."""
    bits = tl.trans(v).reshape(4, 8, CHANNELS // 64, 2, ROWS)  # ww ggg r h
    return bits.permute(2, 0, 3, 1, 4).reshape(CHANNELS, ROWS)
