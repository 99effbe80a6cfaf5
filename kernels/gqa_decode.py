"""Attention of few queries over many keys: one query a row, or the few that verify drafts.

    kernel       Triton: one program per row, key-value head and part of the keys, contiguous or in pages
    launches     as launches
    gqa_decode   launcher over contiguous keys and values: kernels/attention.py's operation; over pages: paged_gqa.py

The heads that share a key-value head are multiplied at once, as the narrow side of products whose wide side is the
tokens (S' = K Q', O' = V' P'): warpgroup instructions then read keys and values straight from shared memory. The keys
of a row are cut into parts, so that a small batch fills the GPU as well; combine.py joins them.

Of a cache in e4m3 the codes become float16, exactly, as one instruction converts two of them. The query is brought into
float16's range by a power of two, and the power of two of a value's scale goes into the exponent of its weight, so that
only what is 2^28 times smaller than the largest contribution is lost.

B rows  S queries a row, the last of its tokens  H heads  J key-value heads  G = H/J  L keys
d, v widths of key and value
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, combine, fragments, tables
from v3bench.kernels.casts import INTERPRETED, from_e4m3, magnitude, narrow, operand
from v3bench.kernels.combine import LN2, LOG2E
from v3bench.kernels.launch import Config, Launch, cdiv, run, split

PAGE = 64  # tokens
FP8 = torch.float8_e4m3fn
NEEDS = checks.AMPERE
WIDE = (torch.bfloat16, torch.float16, torch.float32)
ROWS = (16, 64)  # queries times heads in one program: the least a tensor core takes, the most that registers hold
USUAL = 128 + 128  # width of key and value for which configurations are chosen: of wider heads half as many rows fit
SMALLEST, WIDEST = 16, 256  # head width: depth of the least product, and what shared memory holds
MOST_PARTS = 512
WIDEN = tl.constexpr(
    "{ .reg .b16 low, high; mov.b32 {low, high}, $2; cvt.rn.f16x2.e4m3x2 $0, low; cvt.rn.f16x2.e4m3x2 $1, high; }"
)
MOST_SHARED = 160 * 1024  # bytes of keys and values on their way; query and weights need up to 40 KiB besides
FLOAT_TOKENS = 16  # of a tile of float32


@triton.jit
def half(codes):  # type: ignore[no-untyped-def]
    """e4m3 -> float16, exact; NaN stays NaN.

    By hand for four codes at a time: taken two at a time, each is moved by itself (570 instead of 480 instructions
    for a tile of 64 tokens).
    """
    if INTERPRETED:
        return from_e4m3(codes).to(tl.float16)
    else:
        return tl.inline_asm_elementwise(WIDEN, "=r,=r,r", [codes], dtype=tl.float16, is_pure=True, pack=4)


@triton.jit
def power(x):  # type: ignore[no-untyped-def]
    """The exponent of float32's leading bit, in -64 .. 126 (0 of NaN and infinity), and 2 to minus that: both exact."""
    exponent = ((x.to(tl.int32, bitcast=True) >> 23) & 0xFF) - 127
    exponent = tl.where(exponent == 128, 0, tl.minimum(tl.maximum(exponent, -64), 126))
    return exponent.to(tl.float32), ((127 - exponent) << 23).to(tl.float32, bitcast=True)


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, k_scales_ptr, v_scales_ptr, table_ptr, lengths_ptr, out_ptr, lse_ptr,
    B, S, H, J, L, pages, scale, window, q_row, q_token, q_head, k_row, k_page, k_slot, k_head, v_row, v_page, v_slot,
    v_head, ks_page, ks_slot, ks_head, vs_page, vs_slot, vs_head, table_row,
    G: tl.constexpr, D: tl.constexpr, V: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    PAGE: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, PAGED: tl.constexpr, FP8: tl.constexpr,
    LENGTHS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """One program: ROWS of the S x G queries that share a key-value head, over one part of the keys.

    Without PAGED, "pages" are runs of BLOCK_N tokens of a row that lie one after another.
    """
    # The key-value head varies fastest: what one token has for all heads lies together, and is read together.
    blocks = tl.cdiv(S * G, ROWS)
    program, part = tl.program_id(0), tl.program_id(1)
    block, j, b = program % blocks, program // blocks % J, (program // blocks // J).to(tl.int64)
    length = L
    if LENGTHS:
        length = tl.load(lengths_ptr + b)
    bad = (length < 0) | (length > L)  # what cannot be read is NaN, never a wrong number
    length = tl.where(bad, 0, length).to(tl.int32)
    begin = 0
    if WINDOW:
        begin = tl.maximum(length - S + 1 - window, 0)
    tile = begin // BLOCK_N
    tiles = tl.cdiv(length, BLOCK_N) - tile
    first = tile + (part * tiles.to(tl.int64) // tl.num_programs(1)).to(tl.int32)
    last = tile + ((part + 1) * tiles.to(tl.int64) // tl.num_programs(1)).to(tl.int32)

    row = block * ROWS + tl.arange(0, ROWS)
    s, h = row // G, j * G + row % G
    d, v_at, slot = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_N)
    q_d, out_at = d, v_at
    if FP8 and BLOCK_D % 64 == 0:
        q_d = fragments.key_channel(d)
    if FP8 and BLOCK_V % 64 == 0:
        out_at = fragments.value_channel(v_at, BLOCK_V)
    q_at = b * q_row + s.to(tl.int64)[None, :] * q_token + h[None, :] * q_head + q_d[:, None]
    q = tl.load(q_ptr + q_at, mask=(s < S)[None, :] & (q_d < D)[:, None], other=0.0)  # (D, ROWS)
    scales = tl.zeros([ROWS], tl.float32) + scale * LOG2E
    if FP8:
        _, shrink = power(magnitude(q.to(tl.float32), 0))
        q = (q.to(tl.float32) * (shrink * 16384.0)[None, :]).to(tl.float16)
        scales = scales / (shrink * 16384.0)
    end = length - S + 1 + s  # the tokens a query sees end here
    k_ptr += b * k_row + j.to(tl.int64) * k_head
    v_ptr += b * v_row + j.to(tl.int64) * v_head
    k_tile = slot[:, None] * k_slot + d[None, :]
    v_tile = slot[:, None] * v_slot + v_at[None, :]
    table_ptr += b * table_row
    k_scales_ptr += j.to(tl.int64) * ks_head
    v_scales_ptr += j.to(tl.int64) * vs_head

    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N, ROWS], tl.float32)
    acc = tl.zeros([BLOCK_V, ROWS], tl.float32)
    page = first
    if PAGED:  # looked up one tile ahead, so that no copy waits for it
        page = tl.load(table_ptr + first * BLOCK_N // PAGE, mask=first < last, other=0)
    for n in tl.range(first, last):
        token = n * BLOCK_N + slot
        inside = (token < length) & (token >= begin)
        hole = 0.0
        if PAGED:
            there = (page >= 0) & (page < pages)
            inside = inside & there
            hole = tl.where(there, 0.0, float("nan"))
        at, skip = page.to(tl.int64), 0
        if PAGED and BLOCK_N < PAGE:
            skip = n * BLOCK_N % PAGE
        k_mask, v_mask = inside[:, None] & (d < D)[None, :], inside[:, None] & (v_at < V)[None, :]
        k = tl.load(k_ptr + (at * k_page + skip * k_slot) + k_tile, mask=k_mask, other=0.0)
        v = tl.load(v_ptr + (at * v_page + skip * v_slot) + v_tile, mask=v_mask, other=0.0)
        if FP8:
            if BLOCK_D % 64 == 0:
                k = fragments.keys(k, BLOCK_N, BLOCK_D)
            k_scale = tl.load(k_scales_ptr + at * ks_page + (slot + skip) * ks_slot, mask=inside, other=0.0)
            v_scale = tl.load(v_scales_ptr + at * vs_page + (slot + skip) * vs_slot, mask=inside, other=0.0)
            exponent, inverse = power(v_scale)
            x = tl.dot(half(k), q) * k_scale[:, None] * scales[None, :] + (exponent + hole)[:, None]
        else:
            x = tl.dot(operand(k), operand(q), input_precision="ieee") * scales[None, :] + hole
        seen = token[:, None] < end[None, :]
        if WINDOW:
            seen = seen & (token[:, None] >= (end - window)[None, :])
        x = tl.where(seen, x, float("-inf"))
        most = tl.maximum(top, tl.max(x, 0))
        base = tl.where(most == float("-inf"), 0.0, most)
        fade = tl.exp2(top - base)
        p = tl.exp2(x - base[None, :])
        if FP8:
            total = total * fade[None, :] + p * inverse[:, None]
            p = (p * (v_scale * inverse * 16384.0)[:, None]).to(tl.float16)
            v = half(fragments.values(v, BLOCK_N, BLOCK_V) if BLOCK_V % 64 == 0 else tl.trans(v))
        else:
            total = total * fade[None, :] + p
            p = operand(narrow(p, v_ptr.dtype.element_ty))
            v = tl.trans(operand(v))
        acc = tl.dot(v, p, acc * fade[None, :], input_precision="ieee")
        top = most
        page += 1
        if PAGED:
            page = tl.load(table_ptr + (n + 1) * BLOCK_N // PAGE, mask=n + 1 < last, other=0)

    sum_ = tl.sum(total, 0)
    if FP8:
        acc *= 1.0 / 16384.0
    sum_ = tl.where(sum_ == 0.0, 1.0, sum_)  # nothing was seen: 0, and a lse of -inf, as top is
    acc = acc / sum_[None, :]
    acc = tl.where(bad, float("nan"), acc)
    lse = tl.where(bad, float("nan"), (top + tl.log2(sum_)) * LN2)
    r = ((part * B + b) * S + s) * H + h
    there = (s < S)[None, :] & (out_at < V)[:, None]
    tl.store(out_ptr + r[None, :] * V + out_at[:, None], narrow(acc, out_ptr.dtype.element_ty), mask=there)
    tl.store(lse_ptr + r, lse, mask=s < S)


def launches(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    scale: float,
    window: int | None,
    config: Config,
    lengths: Tensor | None = None,
    block_table: Tensor | None = None,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
) -> tuple[Launch, ...]:
    """As the launchers' arguments and results; without a block table k and v are (B, L, J, width)."""
    (blocks, options), (B, S, H, D), V, J = split(config), q.shape, v.shape[3], k.shape[2]
    G, paged = H // J, block_table is not None
    L = block_table.shape[1] * PAGE if block_table is not None else k.shape[1]
    width = triton.next_power_of_2(D) + triton.next_power_of_2(V)
    rows = min(max(ROWS[0], triton.next_power_of_2(S * G)), ROWS[1] if width <= USUAL else ROWS[1] // 2)
    fit(blocks, options, rows, k.itemsize, width)
    programs, BLOCK_N = blocks.pop("PROGRAMS"), blocks["BLOCK_N"]
    groups = B * J * cdiv(S * G, rows)
    tiles = cdiv(L if window is None else min(L, window + S), BLOCK_N)
    parts = max(1, min(programs // max(groups, 1), tiles, MOST_PARTS))
    parts = cdiv(tiles, cdiv(tiles, parts)) if tiles else 1  # as many tiles in each, where the rows are full
    whole = (out, lse)
    if parts > 1:
        out = torch.empty(parts, B, S, H, V, dtype=torch.float32, device=q.device)
        lse = torch.empty(parts, B, S, H, dtype=torch.float32, device=q.device)
    ks, vs = (t if t is not None else lse.view(-1, 1, 1) for t in (k_scales, v_scales))
    args = {
        "q_ptr": q, "k_ptr": k, "v_ptr": v, "k_scales_ptr": ks, "v_scales_ptr": vs,
        "table_ptr": q if block_table is None else block_table, "lengths_ptr": q if lengths is None else lengths,
        "out_ptr": out, "lse_ptr": lse, "B": B, "S": S, "H": H, "J": J, "L": L, "pages": k.shape[0], "scale": scale,
        "window": window or 0, "q_row": q.stride(0), "q_token": q.stride(1), "q_head": q.stride(2),
        "k_row": 0 if paged else k.stride(0), "k_page": k.stride(0) if paged else BLOCK_N * k.stride(1),
        "k_slot": k.stride(1), "k_head": k.stride(2),
        "v_row": 0 if paged else v.stride(0), "v_page": v.stride(0) if paged else BLOCK_N * v.stride(1),
        "v_slot": v.stride(1), "v_head": v.stride(2),
        "ks_page": ks.stride(0), "ks_slot": ks.stride(1), "ks_head": ks.stride(2),
        "vs_page": vs.stride(0), "vs_slot": vs.stride(1), "vs_head": vs.stride(2),
        "table_row": 0 if block_table is None else block_table.stride(0),
        "G": G, "D": D, "V": V, "BLOCK_D": max(16, triton.next_power_of_2(D)),
        "BLOCK_V": max(16, triton.next_power_of_2(V)), "PAGE": PAGE, "ROWS": rows, "PAGED": paged,
        "FP8": k_scales is not None, "LENGTHS": lengths is not None, "WINDOW": window is not None, **blocks,
    }  # fmt: skip
    main = Launch(kernel, (groups, parts), args, options, passes=cdiv(tiles, parts))
    if parts == 1:
        return (main,)
    joined = out.view(parts, -1, V), lse.view(parts, -1), whole[0].view(-1, V), whole[1].view(-1)
    return main, *combine.launches(*joined)


def fit(blocks: dict[str, Any], options: dict[str, Any], rows: int, itemsize: int, width: int) -> None:
    """Change a configuration, chosen for 16 rows of bfloat16 heads of 128, where others ask for more of an SM."""
    wide = width > USUAL
    if rows > ROWS[0] or wide:
        options.pop("maxnreg", None)
    if rows > 2 * ROWS[0] or (wide and (rows > ROWS[0] or itemsize != 2)):  # twice the threads have twice the registers
        options["num_warps"] = 2 * options["num_warps"]
    if itemsize == 4:  # float32 is multiplied without tensor cores, from registers
        blocks["BLOCK_N"] = min(blocks["BLOCK_N"], FLOAT_TOKENS)
    while blocks["BLOCK_N"] * width * itemsize * options["num_stages"] > MOST_SHARED:
        if options["num_stages"] > 2:
            options["num_stages"] -= 1
        else:
            blocks["BLOCK_N"] //= 2


def gqa_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    lengths: Tensor | None = None,
    window: int | None = None,
    config: Config | None = None,
) -> Tensor:
    """q (B, S, H, d), k (B, L, J, d), v (B, L, J, v) -> (B, S, H, v): causal, as kernels/attention.py's ``reference``.

    For few queries: keys are read once for every 64 of S x G, or 32 where heads are wider than 128. What sees nothing
    is 0. Raises ValueError.
    """
    op = "gqa_decode"
    checks.tensors(op, q=q)
    check(op, q, k, v, q.dtype, window)
    (B, S, H, _), (L, J) = q.shape, k.shape[1:3]
    if k.shape[0] != B or v.shape[0] != B:
        raise ValueError(f"{op}: k has shape {tuple(k.shape)}, expected the {B} rows of q")
    if lengths is not None:
        checks.tensor(op, "lengths", lengths, (torch.int32, torch.int64), (B,), aligned=False)
    checks.device(op, NEEDS, q, k, v, *(() if lengths is None else (lengths,)))
    out = torch.empty(B, S, H, v.shape[3], dtype=q.dtype, device=q.device)
    lse = torch.empty(B, S, H, dtype=torch.float32, device=q.device)
    config = config or tables.choose("paged_gqa", q.device, B=B, H=H, J=J, L=L)
    if not q.is_meta and out.numel():
        run(launches(q, k, v, out, lse, scale=scale, window=window, config=config, lengths=lengths))
    return out


def check(op: str, q: Tensor, k: Tensor, v: Tensor, stored: torch.dtype, window: int | None) -> None:
    """What all launchers ask of queries, keys and values. Raises ValueError."""
    k_name, v_name = ("k", "v") if op == "gqa_decode" else ("k_pages", "v_pages")
    checks.tensor(op, "q", q, WIDE[:2] if stored == FP8 else WIDE, (None, None, None, None), aligned=False)
    _, _, H, D = q.shape
    checks.tensor(op, k_name, k, stored, (None, None, None, D), aligned=False)
    checks.tensor(op, v_name, v, stored, (*k.shape[:3], None), aligned=False)
    J = k.shape[2]
    if J == 0 or H % J:
        raise ValueError(f"{op}: {k_name} has {J} heads, expected a divisor of the {H} heads of q")
    for name, width in ((k_name, D), (v_name, v.shape[3])):
        if not 1 <= width <= WIDEST:
            raise ValueError(f"{op}: {name} has heads of width {width}, expected 1 to {WIDEST}")
    for name, x in ((k_name, k), (v_name, v)):
        if x.stride(1) * 2 * PAGE > checks.MOST:
            raise ValueError(f"{op}: {name} has strides {x.stride()}; {2 * PAGE} tokens must lie within 2^31 elements")
    if window is not None and window < 1:
        raise ValueError(f"{op}: window is {window}, expected at least 1 or None")
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        raise ValueError(f"{op}: has no gradient; call it under torch.no_grad()")
