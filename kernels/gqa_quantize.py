"""Keys and values in e4m3 with one scale per token and head: what is written when a token is appended.

    reference_heads, reference_append    the definitions
    quantize_heads                       launcher of quantize.py's kernel: heads to codes and scales
    kernel_append, append_heads          Triton and launcher: the same, written into pages
    empty_scales                         a place for the scales of pages

A head of a token is one 1 x d tile of quantize.py: amax / 448 is its scale, ``clamp`` the least amax; a head that holds
NaN or infinity dequantises wholly to NaN. Nothing but the token itself is needed, so that appending never touches what
the pages hold already.

B rows  n new tokens  J key-value heads  d width, at most 128
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, quantize
from v3bench.kernels.casts import magnitude, to_e4m3
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.quantize import ACTIVATION, FP8, GUARD, TILE, WIDE, scale_of

NEEDS = checks.HOPPER
APPEND: Config = {"HEADS": 8, "num_warps": 4}  # 8 elements a thread at d = 128


def reference_heads(x: Tensor, *, clamp: float = ACTIVATION) -> tuple[Tensor, Tensor]:
    """x (..., J, d) -> codes (..., J, d) e4m3, scales (..., J) float32, with d <= 128."""
    codes, scales = quantize.reference_tiles(x.reshape(-1, x.shape[-1]), clamp=clamp)
    return codes.view(x.shape), scales.reshape(x.shape[:-1])


def reference_append(
    x: Tensor, pages: Tensor, scales: Tensor, block_table: Tensor, lengths: Tensor, *, clamp: float = ACTIVATION
) -> None:
    """Write x (B, n, J, d) behind each row's first ``lengths`` tokens, in place: pages (P, 64, J, d) e4m3, scales.

    What lies beyond the block table, or in a page that is not there, is left out.
    """
    codes, new = reference_heads(x, clamp=clamp)
    P, slots = pages.shape[:2]
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            entry, slot = divmod(int(lengths[b]) + i, slots)
            if 0 <= entry < block_table.shape[1] and 0 <= block_table[b, entry] < P:
                page = block_table[b, entry]
                pages.view(torch.uint8)[page, slot] = codes[b, i].view(torch.uint8)
                scales[page, slot] = new[b, i]


def quantize_heads(x: Tensor, *, clamp: float = ACTIVATION, config: Config | None = None) -> tuple[Tensor, Tensor]:
    """As ``reference_heads``, x bf16, f16 or f32; ``config`` is one of quantize_tiles. Raises ValueError."""
    checks.tensors("quantize_heads", x=x)
    if x.ndim < 2 or not 1 <= x.shape[-1] <= TILE:
        raise ValueError(f"quantize_heads: x has shape {tuple(x.shape)}, expected (..., J, d) with d of 1 to {TILE}")
    codes, scales = quantize.quantize_tiles(x.reshape(-1, x.shape[-1]), clamp=clamp, config=config)
    return codes.view(x.shape), scales.reshape(x.shape[:-1])


@triton.jit
def kernel_append(  # type: ignore[no-untyped-def]
    x_ptr, pages_ptr, scales_ptr, table_ptr, lengths_ptr, n, J, P, columns, x_row, x_token, x_head,
    page_step, slot_step, head_step, scale_page, scale_slot, scale_head, table_row, clamp,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """One program: HEADS heads of one new token."""
    b, i = (tl.program_id(0) // n).to(tl.int64), (tl.program_id(0) % n).to(tl.int64)
    token = tl.load(lengths_ptr + b).to(tl.int64) + i
    fits = (token >= 0) & (token < columns * PAGE)
    page = tl.load(table_ptr + b * table_row + token // PAGE, mask=fits, other=-1).to(tl.int64)
    fits = fits & (page >= 0) & (page < P)
    head, d = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, BLOCK_D)
    head = head.to(tl.int64)
    inside = (head < J)[:, None] & (d < D)[None, :]
    x = tl.load(x_ptr + b * x_row + i * x_token + head[:, None] * x_head + d[None, :], mask=inside, other=0.0)
    x = x.to(tl.float32)
    scale, inverse = scale_of(magnitude(x, 1), clamp, False)
    at = page * page_step + token % PAGE * slot_step + head * head_step
    tl.store(pages_ptr + at[:, None] + d[None, :], to_e4m3(x * inverse[:, None]), mask=inside & fits)
    at = page * scale_page + token % PAGE * scale_slot + head * scale_head
    tl.store(scales_ptr + at, scale, mask=(head < J) & fits)


def launches_append(
    x: Tensor, pages: Tensor, scales: Tensor, block_table: Tensor, lengths: Tensor, *, clamp: float, config: Config
) -> tuple[Launch, ...]:
    """As ``append_heads``."""
    (B, n, J, D), (blocks, options) = x.shape, split(config)
    args = {
        "x_ptr": x, "pages_ptr": pages, "scales_ptr": scales, "table_ptr": block_table, "lengths_ptr": lengths,
        "n": n, "J": J, "P": pages.shape[0], "columns": block_table.shape[1],
        "x_row": x.stride(0), "x_token": x.stride(1), "x_head": x.stride(2),
        "page_step": pages.stride(0), "slot_step": pages.stride(1), "head_step": pages.stride(2),
        "scale_page": scales.stride(0), "scale_slot": scales.stride(1), "scale_head": scales.stride(2),
        "table_row": block_table.stride(0), "clamp": clamp, "D": D, "BLOCK_D": triton.next_power_of_2(D),
        "PAGE": pages.shape[1], **blocks,
    }  # fmt: skip
    return (Launch(kernel_append, (B * n, cdiv(J, blocks["HEADS"])), args, options),)


def append_heads(
    x: Tensor, pages: Tensor, scales: Tensor, block_table: Tensor, lengths: Tensor, *, clamp: float = ACTIVATION
) -> None:
    """As ``reference_append``, x bf16, f16 or f32; lengths are those before the new tokens. Raises ValueError."""
    op = "append_heads"
    checks.tensor(op, "x", x, WIDE, (None, None, None, None), aligned=False)
    B, _, J, D = x.shape
    if not 1 <= D <= TILE:
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected heads of width 1 to {TILE}")
    checks.tensor(op, "pages", pages, FP8, (None, None, J, D), aligned=False)
    checks.tensors(op, scales=scales)
    if scales.dtype != torch.float32 or scales.shape != pages.shape[:3]:
        have, want = f"{checks.short(scales.dtype)} {tuple(scales.shape)}", f"float32 {tuple(pages.shape[:3])}"
        raise ValueError(f"{op}: scales is {have}, expected {want}")
    checks.tensor(op, "block_table", block_table, torch.int32, (B, None), aligned=False)
    checks.tensor(op, "lengths", lengths, (torch.int32, torch.int64), (B,), aligned=False)
    if not GUARD <= clamp < float("inf"):
        raise ValueError(f"{op}: clamp is {clamp}, expected a finite amax of at least {GUARD}")
    checks.device(op, NEEDS, x, pages, scales, block_table, lengths)
    if not x.is_meta and x.numel() and pages.numel():
        run(launches_append(x, pages, scales, block_table, lengths, clamp=clamp, config=APPEND))


def empty_scales(pages: int, slots: int, heads: int, device: torch.device | str) -> Tensor:
    """Scales (pages, slots, heads) float32, stored head by head: a program reads one head's slots in one piece."""
    return torch.empty(pages, heads, slots, dtype=torch.float32, device=device).transpose(1, 2)
