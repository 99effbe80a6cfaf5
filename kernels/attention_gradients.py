"""Kernels of the gradients of softmax attention, launched by mla_prefill_backward.py.

    kernel_rows       of each query: the sum over out * d_out, and the softmax's logarithm in powers of two
    kernel_keys       dk, dv: one program per tile of keys, over the queries of the group's heads that see it
    kernel_queries    dq: one program per block of queries, over the keys it sees

No atomics: an accumulator never leaves its program, so that every repeat gives the same bits. The weights are computed
anew from the scores and lse, in both kernels. Letters as in mla_prefill.py.
"""

from __future__ import annotations

import triton
import triton.language as tl
from v3bench.kernels.attention_tiles import bounds, place, resident, store, tile
from v3bench.kernels.casts import narrow, operand


@triton.jit
def kernel_rows(  # type: ignore[no-untyped-def]
    out_ptr, d_out_ptr, lse_ptr, rows_ptr, S, P, H, width, out_by_batch, d_out_by_batch, d_out_by_row, d_out_by_head,
    BLOCK: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK queries of one head, of P with those that only pad S to whole blocks.

    base is +inf, which makes all weights 0, where a query sees no key or is none.
    """
    first, head, batch = tl.program_id(0) * BLOCK, tl.program_id(1), tl.program_id(2)
    out = tile(out_ptr, batch, first, head, 0, out_by_batch, H * width, width, S, width, BLOCK, VALUE, False)
    d_out = tile(
        d_out_ptr, batch, first, head, 0, d_out_by_batch, d_out_by_row, d_out_by_head, S, width, BLOCK, VALUE, False
    )
    row, start = first + tl.arange(0, BLOCK), batch.to(tl.int64) * H + head
    lse = tl.load(lse_ptr + start * S + row, mask=row < S, other=float("-inf"))
    base = tl.where(lse == float("-inf"), float("inf"), lse * 1.4426950408889634)
    delta = tl.sum(out.to(tl.float32) * d_out.to(tl.float32), 1)
    tl.store(rows_ptr + start * 2 * P + row, base, mask=row < P)
    tl.store(rows_ptr + start * 2 * P + P + row, delta, mask=row < P)


@triton.jit
def kernel_keys(  # type: ignore[no-untyped-def]
    q_head, q_tail, k_ptr, v_ptr, d_out, dk_head, dk_tail, dv_out, rows_ptr, lengths_ptr,
    S, P, L, H, groups, d, width, window, scale, factor, q_by_batch, q_by_row, q_by_head,
    k_by_batch, k_by_row, k_by_head, v_by_batch, v_by_row, v_by_head, d_out_by_batch, d_out_by_row, d_out_by_head,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, VALUE: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BULK: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_N keys of one key-value head. Scores are (keys, queries), as both products want."""
    key, group, batch = tl.program_id(0) * BLOCK_N, tl.program_id(1), tl.program_id(2)
    end, shift = L, L - S
    if lengths_ptr is not None:
        length = tl.load(lengths_ptr + batch).to(tl.int32)
        end, shift = tl.minimum(length, L), length - S
    low, full, high = 0, 0, S  # queries that see the tile; from ``full`` on they see it whole
    if CAUSAL:
        low = tl.maximum(key - shift, 0) // BLOCK_M * BLOCK_M
        full = tl.cdiv(tl.maximum(key + BLOCK_N - 1 - shift, 0), BLOCK_M) * BLOCK_M
    if WINDOW:
        high = tl.minimum(S, key + BLOCK_N - 1 + window - shift)
    if key >= end:
        high = low

    at = key + tl.arange(0, BLOCK_N)
    k = operand(resident(k_ptr, batch, key, group, 0, k_by_batch, k_by_row, k_by_head, L, d, BLOCK_N, HEAD))
    values = operand(resident(v_ptr, batch, key, group, 0, v_by_batch, v_by_row, v_by_head, L, width, BLOCK_N, VALUE))
    dk = tl.zeros((BLOCK_N, HEAD), tl.float32)
    dv = tl.zeros((BLOCK_N, VALUE), tl.float32)
    if TAIL:
        tail = operand(resident(k_ptr, batch, key, group, HEAD, k_by_batch, k_by_row, k_by_head, L, d, BLOCK_N, TAIL))
        dk_last = tl.zeros((BLOCK_N, TAIL), tl.float32)
    EXACT: tl.constexpr = tl.float32 == TYPE
    for member in range(groups):
        head = group * groups + member
        rows = rows_ptr + (batch.to(tl.int64) * H + head) * 2 * P
        for first in tl.range(low, high, BLOCK_M):
            row = first + tl.arange(0, BLOCK_M)
            # What is multiplied first is fetched last, as in the forward kernel.
            do = tile(
                d_out, batch, first, head, 0, d_out_by_batch, d_out_by_row, d_out_by_head, S, width,
                BLOCK_M, VALUE, BULK,
            )  # fmt: skip
            if TAIL:
                rest = tile(
                    q_tail, batch, first, head, HEAD, q_by_batch, q_by_row, q_by_head, S, d, BLOCK_M, TAIL, BULK
                )
            q = tile(q_head, batch, first, head, 0, q_by_batch, q_by_row, q_by_head, S, d, BLOCK_M, HEAD, BULK)
            if EXACT:  # see ``resident``
                k = resident(k_ptr, batch, key, group, 0, k_by_batch, k_by_row, k_by_head, L, d, BLOCK_N, HEAD, True)
                values = resident(
                    v_ptr, batch, key, group, 0, v_by_batch, v_by_row, v_by_head, L, width, BLOCK_N, VALUE, True
                )
                if TAIL:
                    tail = resident(
                        k_ptr, batch, key, group, HEAD, k_by_batch, k_by_row, k_by_head, L, d, BLOCK_N, TAIL, True
                    )
            scores = tl.dot(k, operand(q).T, input_precision="ieee")
            if TAIL:
                scores = tl.dot(tail, operand(rest).T, scores, input_precision="ieee")
            base = tl.load(rows + row)
            weights = tl.math.exp2(scores * factor - base[None, :])
            position = shift + row
            if WINDOW:
                seen = at[:, None] > position[None, :] - window
                if CAUSAL:
                    seen = seen & (at[:, None] <= position[None, :])
                weights = tl.where(seen, weights, 0.0)
            elif CAUSAL:  # noqa: SIM102  known when compiled; the next is not
                if first < full:
                    weights = tl.where(at[:, None] <= position[None, :], weights, 0.0)
            weights = narrow(weights, TYPE)  # in half the registers
            slope = tl.dot(values, operand(do).T, input_precision="ieee")
            dv = tl.dot(operand(weights), operand(do), dv, input_precision="ieee")
            delta = tl.load(rows + P + row)
            slope = weights.to(tl.float32) * (slope - delta[None, :])
            slope = operand(narrow(slope, q.dtype))
            dk = tl.dot(slope, operand(q), dk, input_precision="ieee")
            if TAIL:
                dk_last = tl.dot(slope, operand(rest), dk_last, input_precision="ieee")

    heads = H // groups
    if lengths_ptr is not None:  # a key beyond its row's length has no gradient, whatever it holds
        valid = (at < end)[:, None]
        dk, dv = tl.where(valid, dk, 0.0), tl.where(valid, dv, 0.0)
        if TAIL:
            dk_last = tl.where(valid, dk_last, 0.0)
    store(dv_out, dv, batch, key, group, 0, L, heads, width, BLOCK_N, VALUE, BULK, TYPE)
    store(dk_head, dk * scale, batch, key, group, 0, L, heads, d, BLOCK_N, HEAD, BULK, TYPE)
    if TAIL:
        store(dk_tail, dk_last * scale, batch, key, group, HEAD, L, heads, d, BLOCK_N, TAIL, BULK, TYPE)


@triton.jit
def kernel_queries(  # type: ignore[no-untyped-def]
    q_ptr, k_head, k_tail, v, d_out_ptr, dq_head, dq_tail, rows_ptr, lengths_ptr,
    S, P, L, H, groups, d, width, window, scale, factor, q_by_batch, q_by_row, q_by_head,
    k_by_batch, k_by_row, k_by_head, v_by_batch, v_by_row, v_by_head, d_out_by_batch, d_out_by_row, d_out_by_head,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, VALUE: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BULK: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M queries of one head, over the same tiles as the forward kernel."""
    block, head, batch = place(S, H, BLOCK_M, 1)
    group, first = head // groups, block * BLOCK_M
    end, shift = L, L - S
    if lengths_ptr is not None:
        length = tl.load(lengths_ptr + batch).to(tl.int32)
        end, shift = tl.minimum(length, L), length - S
    low, full, high = bounds(first, shift, end, window, BLOCK_M, BLOCK_N, CAUSAL, WINDOW)
    row = first + tl.arange(0, BLOCK_M)
    position = shift + row
    last = tl.minimum(position, end - 1) if CAUSAL else tl.zeros_like(position) + end - 1
    rows = rows_ptr + (batch.to(tl.int64) * H + head) * 2 * P
    base = tl.load(rows + row)
    delta = tl.load(rows + P + row)
    q = operand(resident(q_ptr, batch, first, head, 0, q_by_batch, q_by_row, q_by_head, S, d, BLOCK_M, HEAD))
    do = resident(
        d_out_ptr, batch, first, head, 0, d_out_by_batch, d_out_by_row, d_out_by_head, S, width, BLOCK_M, VALUE
    )
    do = operand(do)
    dq = tl.zeros((BLOCK_M, HEAD), tl.float32)
    if TAIL:
        tail = operand(resident(q_ptr, batch, first, head, HEAD, q_by_batch, q_by_row, q_by_head, S, d, BLOCK_M, TAIL))
        dq_last = tl.zeros((BLOCK_M, TAIL), tl.float32)
    EXACT: tl.constexpr = tl.float32 == TYPE
    # As in the forward kernel.
    FIRST: tl.constexpr = 1 if WINDOW else (2 if lengths_ptr is None else 0)
    for EDGE in tl.static_range(FIRST, 3 if FIRST == 2 else 2):
        start, stop = (full, high) if EDGE == 1 else (low, high if EDGE == 2 else full)
        for key in tl.range(start, stop, BLOCK_N):
            at = key + tl.arange(0, BLOCK_N)
            # What is multiplied first is fetched last, as in the forward kernel.
            values = tile(v, batch, key, group, 0, v_by_batch, v_by_row, v_by_head, L, width, BLOCK_N, VALUE, BULK)
            if TAIL:
                rest = tile(k_tail, batch, key, group, HEAD, k_by_batch, k_by_row, k_by_head, L, d, BLOCK_N, TAIL, BULK)
            keys = tile(k_head, batch, key, group, 0, k_by_batch, k_by_row, k_by_head, L, d, BLOCK_N, HEAD, BULK)
            if EDGE == 1 and lengths_ptr is not None:  # beyond a row's length may lie anything, and 0 times NaN is NaN
                keys = tl.where((at < end)[:, None], keys, tl.zeros_like(keys))
                if TAIL:
                    rest = tl.where((at < end)[:, None], rest, tl.zeros_like(rest))
            if EXACT:  # see ``resident``
                q = resident(q_ptr, batch, first, head, 0, q_by_batch, q_by_row, q_by_head, S, d, BLOCK_M, HEAD, True)
                do = resident(
                    d_out_ptr, batch, first, head, 0, d_out_by_batch, d_out_by_row, d_out_by_head, S, width,
                    BLOCK_M, VALUE, True,
                )  # fmt: skip
                if TAIL:
                    tail = resident(
                        q_ptr, batch, first, head, HEAD, q_by_batch, q_by_row, q_by_head, S, d, BLOCK_M, TAIL, True
                    )
            scores = tl.dot(q, operand(keys).T, input_precision="ieee")
            if TAIL:
                scores = tl.dot(tail, operand(rest).T, scores, input_precision="ieee")
            weights = tl.math.exp2(scores * factor - base[:, None])
            slope = tl.dot(do, operand(values).T, input_precision="ieee")
            slope = weights * (slope - delta[:, None])
            if EDGE == 1:
                seen = at[None, :] <= last[:, None]
                if WINDOW:
                    seen = seen & (at[None, :] > position[:, None] - window)
                slope = tl.where(seen, slope, 0.0)
            elif EDGE == 2:  # noqa: SIM102  known when compiled; the next is not
                if key >= full:
                    slope = tl.where(at[None, :] <= last[:, None], slope, 0.0)
            slope = operand(narrow(slope, keys.dtype))
            dq = tl.dot(slope, operand(keys), dq, input_precision="ieee")
            if TAIL:
                dq_last = tl.dot(slope, operand(rest), dq_last, input_precision="ieee")
    store(dq_head, dq * scale, batch, first, head, 0, S, H, d, BLOCK_M, HEAD, BULK, TYPE)
    if TAIL:
        store(dq_tail, dq_last * scale, batch, first, head, HEAD, S, H, d, BLOCK_M, TAIL, BULK, TYPE)
