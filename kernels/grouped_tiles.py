"""The Triton kernel under both grouped FP8 GEMMs: tiles of the products of many experts, found on the device.

    segments    an expert's rows, from offsets (contiguous) or from counts (masked)
    multiply    one tile: 128 columns of K at a time, each product promoted to float32 with its scales
    kernel      programs take tiles a grid's width apart, or one each
    launch      the launch of either form

A program finds its tile from two integers per expert, so that nothing waits for the host and no map has to be built.
The rows of an expert's last tile that are beyond its end are its neighbour's (or nobody's): they are read and
multiplied, and not stored. A row of the product depends on no other row, so that nothing of them shows.

A tile has BM rows and PARTS x BN columns. Each part has its own sums, and one scale per row, as BN divides 128. With
SWAP the weights are the side of a matrix instruction that takes 64 rows at least, and the rows the one that takes as
few as 16: for experts with few rows, bound by reading each weight once.

T rows of all experts  E experts  N outputs  K columns  W = ceil(K/128) tiles
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels.casts import narrow
from v3bench.kernels.fp8_tiles import descriptor, joined, pinned, place
from v3bench.kernels.launch import Config, Launch, cdiv, sms, split

TILE = 128


@triton.jit
def segments(ends_ptr, e, E, T, pitch, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows [begin, end) of experts ``e``: inside [0, T) whatever the array holds, empty for e >= E."""
    end = tl.load(ends_ptr + e, mask=e < E, other=0)
    if MASKED:
        begin = e * pitch
        end = begin + tl.minimum(tl.maximum(end, 0), pitch)
    else:
        begin = tl.load(ends_ptr + e - 1, mask=(e > 0) & (e < E), other=0)
        begin = tl.minimum(tl.maximum(begin, 0), T)
        end = tl.minimum(tl.maximum(end, begin), T)
    return begin, end


@triton.jit
def first_sum(ends_ptr, E, T, MASKED: tl.constexpr, EXPERTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """What sums begin at: 0, or NaN where offsets decrease or leave 0..T. Such rows have no product, and to refuse
    them would mean to wait for the GPU."""
    if MASKED:
        return tl.full([], 0.0, tl.float32)
    else:
        e = tl.arange(0, EXPERTS)
        there = tl.load(ends_ptr + e, mask=e < E, other=0)
        before = tl.load(ends_ptr + e - 1, mask=(e > 0) & (e < E), other=0)
        return tl.where(tl.max(((there < before) | (there > T)).to(tl.int32), 0) > 0, float("nan"), 0.0)


@triton.jit
def multiply(  # type: ignore[no-untyped-def]
    x_desc, w_desc, x_scales_ptr, w_scales_ptr, out_ptr, N, K,
    x_scales_row, x_scales_column, w_scales_row, out_row, row, end, w_row, column, start,
    BM: tl.constexpr, BN: tl.constexpr, PARTS: tl.constexpr, SWAP: tl.constexpr,
):  # fmt: skip
    """One tile, stored; its sums begin at ``start``, 0 or NaN. Both pointers to scales are at the tile's first row and
    the expert's first block."""
    rows = tl.arange(0, BM)
    inside = rows < end - row
    x_scales = x_scales_ptr + rows * x_scales_row
    sums = ()
    for _ in tl.static_range(PARTS):
        sums = joined(sums, tl.zeros((BN, BM) if SWAP else (BM, BN), tl.float32) + start)
    # Products of few rows do not last as long as a load: their scales are asked for a tile ahead.
    AHEAD: tl.constexpr = SWAP and BM <= 32
    x_next = tl.load(x_scales, mask=inside, other=0.0)
    for k in range(0, tl.cdiv(K, 128)):
        if AHEAD:
            x_scale = x_next
            x_scales += tl.where(k + 1 < tl.cdiv(K, 128), x_scales_column, 0)
            x_next = tl.load(x_scales, mask=inside, other=0.0)
        else:
            x_scale = tl.load(x_scales, mask=inside, other=0.0)
            x_scales += x_scales_column
        x = x_desc.load([row, k * 128])
        # All loads before the first product: so they share one barrier.
        parts, promoted = (), ()
        for i in tl.static_range(PARTS):
            parts = joined(parts, w_desc.load([w_row + i * BN, k * 128]))
        for i in tl.static_range(PARTS):
            # Whole blocks wide, a tile's parts know at compile time which of them share a scale.
            block = column // 128 + i * BN // 128 if BN * PARTS % 128 == 0 else (column + i * BN) // 128
            scale = x_scale * tl.load(w_scales_ptr + tl.minimum(block, (N - 1) // 128) * w_scales_row + k)
            if SWAP:
                total = sums[i] + tl.dot(parts[i], x.T) * scale[None, :]
            else:
                total = sums[i] + tl.dot(x, parts[i].T) * scale[:, None]
            promoted = joined(promoted, pinned(total))
        sums = promoted
    out_ptr += row.to(tl.int64) * out_row
    for i in tl.static_range(PARTS):
        total = sums[i].T if SWAP else sums[i]
        columns = column + i * BN + tl.arange(0, BN)
        at = rows[:, None] * out_row + columns[None, :]
        tl.store(out_ptr + at, narrow(total, out_ptr.dtype.element_ty), mask=inside[:, None] & (columns < N)[None, :])


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    x_desc, w_desc, x_scales_ptr, w_scales_ptr, ends_ptr, out_ptr, E, N, K, T, pitch,
    x_scales_stack, x_scales_row, x_scales_column, w_scales_stack, w_scales_row, out_row,
    BM: tl.constexpr, BN: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr, SWAP: tl.constexpr,
    MASKED: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """Program p: tiles p, p + programs, ...; expert by expert, within one in bands of GROUP row blocks."""
    begins, ends = segments(ends_ptr, tl.arange(0, EXPERTS), E, T, pitch, MASKED)
    blocks = tl.cdiv(ends - begins, BM)
    start = first_sum(ends_ptr, E, T, MASKED, EXPERTS)
    last = tl.cumsum(blocks, 0)
    across = tl.cdiv(N, BN * PARTS)
    for tile in range(tl.program_id(0), tl.sum(blocks) * across, tl.num_programs(0)):
        passed = last <= tile // across
        expert = tl.sum(passed.to(tl.int32))
        before = tl.max(tl.where(passed, last, 0))
        begin, end = segments(ends_ptr, expert, E, T, pitch, MASKED)
        block, column = place(tile - before * across, tl.cdiv(end - begin, BM), across, GROUP)
        row = begin + block * BM
        own = row - begin if MASKED else row  # its place among the scales, which have a stack per expert only if masked
        x_scales = x_scales_ptr + expert.to(tl.int64) * x_scales_stack + own.to(tl.int64) * x_scales_row
        multiply(
            x_desc, w_desc, x_scales, w_scales_ptr + expert * w_scales_stack, out_ptr, N, K,
            x_scales_row, x_scales_column, w_scales_row, out_row,
            row, end, expert * N + column * (BN * PARTS), column * (BN * PARTS), start, BM, BN, PARTS, SWAP,
        )  # fmt: skip


def launch(
    x: Tensor, x_scales: Tensor, w: Tensor, w_scales: Tensor, ends: Tensor, out: Tensor, *, config: Config
) -> Launch:
    """x (T, K), x_scales (T, W), out (T, N) and ``ends`` = offsets; or x (E, R, K), x_scales (E, R, W), out (E, R, N)
    and ``ends`` = rows that count. w (E, N, K), w_scales (E, ceil(N/128), W)."""
    (E, N, K), masked, (blocks, options) = w.shape, x.ndim == 3, split(config)
    sizes = {name: blocks[name] for name in ("BM", "BN", "PARTS", "GROUP", "SWAP")}
    if out.itemsize == 4 and sizes["PARTS"] == 3:  # the addresses of float32 take what a fourth stage's would have
        options["num_stages"] = min(options["num_stages"], 3)
    pitch = x.shape[1] if masked else 0
    flat, into = x.flatten(0, -2), out.flatten(0, -2)
    T, tile = len(flat), sizes["BM"]
    most = E * cdiv(pitch, tile) if masked else T // tile + min(T, E)  # row blocks, whatever the rows of each expert
    wide = sizes["BN"] * sizes["PARTS"]
    tiles = most * cdiv(N, wide)
    args = {
        "x_desc": descriptor(flat, (tile, TILE)), "w_desc": descriptor(w.flatten(0, 1), (sizes["BN"], TILE)),
        "x_scales_ptr": x_scales, "w_scales_ptr": w_scales, "ends_ptr": ends, "out_ptr": into,
        "E": E, "N": N, "K": K, "T": T, "pitch": pitch, "x_scales_stack": x_scales.stride(0) if masked else 0,
        "x_scales_row": x_scales.stride(-2), "x_scales_column": x_scales.stride(-1),
        "w_scales_stack": w_scales.stride(0), "w_scales_row": w_scales.stride(1), "out_row": into.stride(0),
        **sizes, "MASKED": masked, "EXPERTS": max(triton.next_power_of_2(E), 32),
    }  # fmt: skip
    programs = blocks["PERSISTENT"] * sms(x.device) if blocks["PERSISTENT"] else tiles
    balanced = E * cdiv(cdiv(T, E), tile) * cdiv(N, wide)  # tiles, with as many rows of each expert
    return Launch(kernel, (min(tiles, programs),), args, options, l2_bytes=balanced * (tile + wide) * K)


def rows(m: int, part: int, parts: int, per_sm: int, warps: int, stages: int, **more: int) -> dict[str, int | bool]:
    """A config with rows as the matrix unit's rows; ``per_sm`` persistent programs on an SM."""
    sizes: dict[str, int | bool] = {"BM": m, "BN": part, "PARTS": parts, "GROUP": 16, "SWAP": False}
    return {**sizes, "PERSISTENT": per_sm, "num_warps": warps, "num_stages": stages, **more}


def swapped(m: int, part: int, parts: int, per_sm: int, warps: int, stages: int, **more: int) -> dict[str, int | bool]:
    """A config with weights as the matrix unit's rows."""
    return {**rows(m, part, parts, per_sm, warps, stages, **more), "SWAP": True}


# Registers, shared memory and CTAs per SM as compiled for sm_90 by Triton 3.7.1. The two held to 128 registers spill 8
# bytes since offsets that cannot be right give NaN, and v3bench tune drops them; another compiler may fit them.
MANY = [
    # Two CTAs an SM, so that one multiplies while the other promotes, stores or waits: two parts of 64 columns keep 64
    # sums and 32 products a thread in 128 registers.
    rows(128, 64, 2, 2, 8, 3, maxnreg=128),  # 128 registers, 96 KiB, 2 CTAs
    # The fewest bytes from the L2 per FLOP, 5.9e-3 against 7.8e-3, but alone on its SM.
    rows(128, 128, 2, 1, 8, 4),  # 255, 192 KiB, 1
    rows(128, 64, 3, 1, 8, 5),  # 254, 200 KiB, 1
    rows(128, 128, 1, 1, 8, 6),  # 191, 192 KiB, 1
    rows(256, 64, 1, 1, 8, 4),  # 186, 161 KiB, 1
]
FEW = [
    rows(64, 128, 1, 2, 4, 4),  # 175 registers, 96 KiB, 2 CTAs
    rows(64, 64, 2, 3, 4, 3, maxnreg=128),  # 128, 72 KiB, 3
    rows(64, 64, 1, 2, 4, 6),  # 120, 96 KiB, 2
    rows(64, 128, 2, 1, 8, 4),  # 181, 160 KiB, 1
    swapped(64, 128, 1, 2, 4, 4),  # 197, 96 KiB, 2
    swapped(64, 64, 2, 3, 4, 3, maxnreg=168),  # 166, 72 KiB, 3
    swapped(32, 128, 1, 2, 4, 4),  # 132, 80 KiB, 2
    swapped(32, 128, 1, 3, 4, 3),  # 130, 60 KiB, 3
    swapped(32, 64, 1, 2, 4, 8),  # 109, 96 KiB, 2
    # Three CTAs of four stages keep 160 KiB an SM on the way, five times what hides the memory's latency.
    swapped(16, 128, 1, 3, 4, 4),  # 77, 72 KiB, 3
    swapped(16, 128, 1, 2, 4, 6),  # 80, 108 KiB, 2
    swapped(16, 128, 1, 4, 4, 3),  # 75, 54 KiB, 4
    swapped(16, 64, 2, 3, 4, 4),  # 78, 72 KiB, 3
    # One or two experts have few tiles: narrower ones, each with more on the way.
    swapped(16, 64, 1, 2, 4, 10),  # 90, 100 KiB, 2
    swapped(16, 64, 1, 4, 4, 5),  # 63, 50 KiB, 4
]


def fits(R: int, config: Config) -> None:
    """Raises ValueError where a config wastes half its products on ``R`` rows an expert, or reads weights thrice."""
    m = config["BM"]
    if m >= 2 * max(R, 9) or (m < 64 and 2 * m < R):
        raise ValueError(f"a tile of {m} rows is no match for {R} rows an expert")
