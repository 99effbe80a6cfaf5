"""Causal attention with keys of 192 and values of 128 per head: MLA in its expanded form (V3 report, eq. 9-10).

    reference      the definition, with the logarithm of each softmax's sum
    kernel         Triton: one program per block of queries of one head, over the tiles of keys it sees
    mla_prefill    launcher of the square causal case
    launches       of every case that ``attention`` in flash_attention.py serves: other widths, groups, caches, windows

Tiles of keys that no query of the block sees are skipped; only those at an edge are masked. 192 is 128 + 64: two
products into one score. The softmax is in powers of two, with log2(e) folded into the scale. Longest blocks start
first, and neighbouring programs share a head, whose keys then stay in L2.

A query that sees no key gives 0 and -inf. What is not finite in a query, or in keys or values it does not share,
spoils no other query; but for NaN in a value, which spoils queries of its own tile up to a tile earlier than it
should (the definition: all queries of its head).

B batch  S queries  L keys (S <= L)  H heads  J key-value heads (J divides H)  d query and key width  v value width
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, tables
from v3bench.kernels.attention import visible
from v3bench.kernels.attention_tiles import (
    MOST,
    Mask,
    Widths,
    bounds,
    bulk,
    element,
    place,
    source,
    store,
    strides,
    tile,
)
from v3bench.kernels.casts import narrow, operand
from v3bench.kernels.launch import Config, Launch, cdiv, run, split

KEY, VALUE = 192, 128
NEEDS = checks.AMPERE
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LOG2E = 1 / math.log(2)


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """q (B, S, H, d), k (B, L, J, d), v (B, L, J, v) -> out (B, S, H, v), lse (B, H, S): ln of the sum of exponentials.

    In at least float32, rounded once; ``window`` and ``lengths`` as in attention.py.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    groups = q.shape[2] // k.shape[2]
    k, v = (x.to(wide).repeat_interleave(groups, dim=2) for x in (k, v))
    scores = torch.einsum("bshd,blhd->bhsl", q.to(wide), k) * scale
    seen = visible(q.shape[1], k.shape[1], causal=causal, window=window, lengths=lengths, device=q.device)
    lse = scores.masked_fill(~seen[:, None], -math.inf).logsumexp(-1)
    weights = (scores - lse.masked_fill(lse == -math.inf, 0)[..., None]).exp().masked_fill(~seen[:, None], 0)
    return torch.einsum("bhsl,blhv->bshv", weights, v).to(q.dtype), lse


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    q_head, q_tail, k_head, k_tail, v, out, lse_ptr, lengths_ptr, S, L, H, groups, d, width, window, factor,
    q_by_batch, q_by_row, q_by_head, k_by_batch, k_by_row, k_by_head, v_by_batch, v_by_row, v_by_head,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
    VALUE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BULK: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M queries of one head. ``factor`` is the scale times log2(e)."""
    block, head, batch = place(S, H, BLOCK_M, HEADS)
    group, first = head // groups, block * BLOCK_M
    end, shift = L, L - S
    if lengths_ptr is not None:
        length = tl.load(lengths_ptr + batch).to(tl.int32)
        end, shift = tl.minimum(length, L), length - S
    low, full, high = bounds(first, shift, end, window, BLOCK_M, BLOCK_N, CAUSAL, WINDOW)
    position = shift + first + tl.arange(0, BLOCK_M)
    last = tl.minimum(position, end - 1) if CAUSAL else tl.zeros_like(position) + end - 1  # key that each query sees

    q = tile(q_head, batch, first, head, 0, q_by_batch, q_by_row, q_by_head, S, d, BLOCK_M, HEAD, BULK)
    q = operand(q)
    if TAIL:
        tail = tile(q_tail, batch, first, head, HEAD, q_by_batch, q_by_row, q_by_head, S, d, BLOCK_M, TAIL, BULK)
        tail = operand(tail)
    most = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, VALUE), tl.float32)
    EXACT: tl.constexpr = tl.float32 == TYPE
    # Tiles that all queries see whole need no mask. One loop tells them apart as it runs (2), as a second would wait
    # for its first copies; but where an edge costs more than a mask, those without come first (0), then the others (1).
    FIRST: tl.constexpr = 1 if WINDOW else (2 if lengths_ptr is None else 0)
    for EDGE in tl.static_range(FIRST, 3 if FIRST == 2 else 2):
        start, stop = (full, high) if EDGE == 1 else (low, high if EDGE == 2 else full)
        for key in tl.range(start, stop, BLOCK_N):
            # What is multiplied first is fetched last: else the compiler puts a barrier between softmax and product,
            # and the two warp groups, which hold 64 queries each, could not overlap one's with the other's.
            values = tile(v, batch, key, group, 0, v_by_batch, v_by_row, v_by_head, L, width, BLOCK_N, VALUE, BULK)
            if TAIL:
                rest = tile(k_tail, batch, key, group, HEAD, k_by_batch, k_by_row, k_by_head, L, d, BLOCK_N, TAIL, BULK)
            keys = tile(k_head, batch, key, group, 0, k_by_batch, k_by_row, k_by_head, L, d, BLOCK_N, HEAD, BULK)
            if EXACT:  # see ``resident``
                q = tile(
                    q_head, batch, first, head, 0, q_by_batch, q_by_row, q_by_head, S, d, BLOCK_M, HEAD, BULK, True
                )
                if TAIL:
                    tail = tile(
                        q_tail, batch, first, head, HEAD, q_by_batch, q_by_row, q_by_head, S, d,
                        BLOCK_M, TAIL, BULK, True,
                    )  # fmt: skip
            scores = tl.dot(q, operand(keys).T, input_precision="ieee")
            if TAIL:
                scores = tl.dot(tail, operand(rest).T, scores, input_precision="ieee")
            at = key + tl.arange(0, BLOCK_N)
            if EDGE == 1:
                seen = at[None, :] <= last[:, None]
                if WINDOW:
                    seen = seen & (at[None, :] > position[:, None] - window)
                scores = tl.where(seen, scores, float("-inf"))
            elif EDGE == 2:  # noqa: SIM102  known when compiled; the next is not
                if key >= full:
                    scores = tl.where(at[None, :] <= last[:, None], scores, float("-inf"))
            above = tl.maximum(most, tl.max(scores, 1))
            # Where a query has seen nothing yet, -inf less -inf would be NaN.
            origin = tl.where(above == float("-inf"), 0.0, above) * factor
            weights = tl.math.exp2(scores * factor - origin[:, None])
            fade = tl.math.exp2(most * factor - origin)
            most = above
            total = total * fade + tl.sum(weights, 1)
            acc = acc * fade[:, None]
            if EDGE == 1 and lengths_ptr is not None:  # beyond a row's length may lie anything, and 0 times NaN is NaN
                values = tl.where((at < end)[:, None], values, tl.zeros_like(values))
            acc = tl.dot(operand(narrow(weights, values.dtype)), operand(values), acc, input_precision="ieee")

    row = first + tl.arange(0, BLOCK_M)
    sound = tl.where(total == 0.0, 1.0, total)
    lse = tl.where(total == 0.0, float("-inf"), (most * factor + tl.math.log2(sound)) * 0.6931471805599453)
    tl.store(lse_ptr + (batch.to(tl.int64) * H + head) * S + row, lse, mask=row < S)
    store(out, acc / sound[:, None], batch, first, head, 0, S, H, width, BLOCK_M, VALUE, BULK, TYPE)


def launches(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    scale: float,
    mask: Mask,
    config: Config,
) -> tuple[Launch, ...]:
    """As ``reference``'s arguments and results; out and lse contiguous."""
    (B, S, H, d), (_, L, J, width), (blocks, options) = q.shape, v.shape, split(config)
    widths, described = Widths.of(d, width), bulk(q, k, v, out)
    M, N = blocks["BLOCK_M"], blocks["BLOCK_N"]
    args = {
        "q_head": source(q, M, widths.head, described), "q_tail": source(q, M, widths.last, described),
        "k_head": source(k, N, widths.head, described), "k_tail": source(k, N, widths.last, described),
        "v": source(v, N, widths.value, described), "out": source(out, M, widths.value, described),
        "lse_ptr": lse, "S": S, "L": L, "H": H, "groups": H // J, "d": d, "width": width,
        "factor": scale * LOG2E,
        **strides("q_by", q), **strides("k_by", k), **strides("v_by", v),
        **mask.arguments, "BULK": described, "TYPE": element(q), **widths.constexprs,
        "HEADS": 1, **blocks,
    }  # fmt: skip
    # Every block of queries reads the keys and values that it sees, half of them where it is causal.
    from_l2 = B * H * cdiv(S, M) * (L - S // 2 if mask.causal else L) * (d + width) * k.itemsize
    return (Launch(kernel, (cdiv(S, M) * H, B), args, options, l2_bytes=from_l2),)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    mask: Mask,
    config: Config,
) -> tuple[Tensor, Tensor]:
    """Checked arguments -> out, lse, as ``reference``."""
    (B, S, H, _), width = q.shape, v.shape[-1]
    out = torch.empty(B, S, H, width, dtype=q.dtype, device=q.device)
    lse = torch.empty(B, H, S, dtype=torch.float32, device=q.device)
    if not q.is_meta and out.numel():
        run(launches(q, k, v, out, lse, scale=scale, mask=mask, config=config))
    return out, lse


def mla_prefill(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, config: Config | None = None
) -> tuple[Tensor, Tensor]:
    """q, k (B, S, H, 192), v (B, S, H, 128) -> out (B, S, H, 128), lse (B, H, S) float32. Raises ValueError."""
    check("mla_prefill", q, k, v, scale, Mask())
    B, S, H, _ = q.shape
    for name, x, shape in (("q", q, (B, S, H, KEY)), ("k", k, (B, S, H, KEY)), ("v", v, (B, S, H, VALUE))):
        checks.tensor("mla_prefill", name, x, DTYPES, shape, aligned=False)
    config = config or tables.choose("mla_prefill", q.device, B=B, H=H, S=S)
    return forward(q, k, v, scale=scale, mask=Mask(), config=config)


def check(op: str, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Mask) -> None:
    """What every attention here asks of its arguments. Raises ValueError."""
    checks.tensor(op, "q", q, DTYPES, (None,) * 4, aligned=False)
    B, S, H, d = q.shape
    checks.tensor(op, "k", k, q.dtype, (B, None, None, d), aligned=False)
    L, J = k.shape[1:3]
    checks.tensor(op, "v", v, q.dtype, (B, L, J, None), aligned=False)
    checks.device(op, NEEDS, q, k, v, *([] if mask.lengths is None else [mask.lengths]))
    if B * S * H and not v.numel():
        raise ValueError(f"{op}: v has shape {tuple(v.shape)}; a query needs at least one key")
    if J and H % J:
        raise ValueError(f"{op}: q has {H} heads and k {J}; the heads of k must divide those of q")
    if not 0 < max(d, v.shape[-1]) <= MOST:
        raise ValueError(f"{op}: q has heads of {d} and v of {v.shape[-1]}, expected at most {MOST}")
    if B > 65535:
        raise ValueError(f"{op}: q has {B} rows, expected at most 65535")
    if not 0 < scale < math.inf:
        raise ValueError(f"{op}: scale is {scale}, expected a positive number")
    if (mask.causal or mask.window is not None) and S > L:
        raise ValueError(f"{op}: q has {S} positions and k {L}; the queries must be the last of the keys")
    if mask.window is not None and mask.window < 1:
        raise ValueError(f"{op}: window is {mask.window}, expected at least 1 token")
    if mask.lengths is not None:
        checks.tensor(op, "lengths", mask.lengths, (torch.int32, torch.int64), (B,), contiguous=True, aligned=False)


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches at a table's shape on the meta device, for compilation ahead of time."""
    B, H, S = shape["B"], shape["H"], shape["S"]
    q, k = (torch.empty(B, S, H, KEY, dtype=torch.bfloat16, device="meta") for _ in range(2))
    v, out = (torch.empty(B, S, H, VALUE, dtype=torch.bfloat16, device="meta") for _ in range(2))
    lse = torch.empty(B, H, S, dtype=torch.float32, device="meta")
    return launches(q, k, v, out, lse, scale=KEY**-0.5, mask=Mask(), config=config)


# (queries, keys, warps, stages) of a tile. The copies of a tile start at the end of a pass, stages - 1 tiles ahead:
# with two stages hardly before they are needed. Tiles of 64 keys leave room for five, tiles of 128 for two, but those
# have 8.5 instructions a score for 12. 64 queries double what L2 must deliver, but two CTAs fit on an SM.
TILES = ((128, 64, 8, 4), (128, 64, 8, 3), (128, 64, 8, 5), (128, 128, 8, 2), (64, 64, 4, 2))
CANDIDATES = {
    "mla_prefill": [
        {"BLOCK_M": m, "BLOCK_N": n, "HEADS": heads, "num_warps": warps, "num_stages": stages}
        for m, n, warps, stages in TILES
        for heads in (1, 4, 16)  # side by side: 1 keeps its keys in L2 best, 16 start their longest blocks first
    ]
}
TABLE_SHAPES = {
    "mla_prefill": [
        *({"B": 1, "H": 128, "S": s} for s in (1024, 4096, 8192, 16384)),
        *({"B": 1, "H": 16, "S": s} for s in (4096, 16384)),
    ]
}
