"""A paged cache of latents: its layouts, the kernel that appends tokens, copies from and to a contiguous cache.

    gathered, reference_append    the definitions
    kernel_append                 Triton: one program per new token
    append                        launcher
    PagedCache                    layers of pages behind one PageTable

A page is (64, W). In bfloat16 a token is c_kv (C), then k_r (R). In FP8 it is FlashMLA's 656 bytes: 512 e4m3 in tiles
of 128, four float32 scales, 64 bfloat16 of k_r. Keys or values of other attentions (64, J, d) are appended too, viewed
as (64, J*d), with no second part.

B rows  n new tokens  P pages  C latent width  R decoupled key width  W = C + R, or 656 bytes
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, dequantize
from v3bench.kernels.casts import magnitude, narrow, to_e4m3
from v3bench.kernels.launch import Launch, run
from v3bench.kernels.page_table import PAGE, PageTable
from v3bench.kernels.quantize import ACTIVATION, TILE, reference_tiles, scale_of

FP8_TOKEN = 656  # bytes
LATENT, ROPE = 512, 64  # the widths the FP8 layout is made for
NEEDS = checks.HOPPER
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def dequantized(tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """FP8 tokens (N, 656) uint8 -> (N, 576)."""
    codes, scales = tokens[:, :LATENT].view(torch.float8_e4m3fn), tokens[:, LATENT : LATENT + 16].contiguous()
    c = dequantize.reference_tiles(codes, scales.view(torch.float32), torch.float32)
    return torch.cat((c, tokens[:, LATENT + 16 :].contiguous().view(torch.bfloat16).float()), dim=1).to(dtype)


def quantized(c: Tensor, r: Tensor) -> Tensor:
    """c (N, 512), r (N, 64) -> FP8 tokens (N, 656) uint8."""
    codes, scales = reference_tiles(c)
    parts = codes.view(torch.uint8), scales.contiguous().view(torch.uint8), r.bfloat16().contiguous().view(torch.uint8)
    return torch.cat(parts, dim=1)


def gathered(pages: Tensor, block_table: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """pages (P, 64, *entry), block_table (B, columns) -> (B, columns * 64, *entry), FP8 tokens dequantised."""
    there = block_table.clamp(0, max(pages.shape[0] - 1, 0)).long()  # entries past a row's length may be anything
    tokens = (pages if len(pages) else pages.new_zeros(1, *pages.shape[1:]))[there].flatten(1, 2)
    if pages.dtype == torch.uint8:
        return dequantized(tokens.flatten(0, 1), dtype or torch.bfloat16).view(*tokens.shape[:2], LATENT + ROPE)
    return tokens if dtype is None else tokens.to(dtype)


def reference_append(
    pages: Tensor, c: Tensor, r: Tensor | None, block_table: Tensor, lengths: Tensor, counts: Tensor | None = None
) -> None:
    """Write c (B, n, C) and r (B, n, R) after the first ``lengths`` tokens of each row, in place.

    Of row b the first counts[b] new tokens; all without ``counts``. What does not fit the block table is left out.
    """
    B, n, _ = c.shape
    parts = [c] if r is None else [c, r]
    for b in range(B):
        for i in range(n if counts is None else min(n, int(counts[b]))):
            t = int(lengths[b]) + i
            if t < block_table.shape[1] * PAGE:
                token = quantized(c[b, i : i + 1], parts[1][b, i : i + 1])[0] if pages.dtype == torch.uint8 else None
                new = torch.cat([part[b, i] for part in parts]) if token is None else token
                pages[block_table[b, t // PAGE], t % PAGE] = new


@triton.jit
def kernel_append(  # type: ignore[no-untyped-def]
    c_ptr, r_ptr, to_c_ptr, to_r_ptr, to_s_ptr, table_ptr, lengths_ptr, counts_ptr, n, P, columns, table_row,
    c_b, c_n, r_b, r_n, page, token, r_page, r_token, s_page, s_token, clamp,
    C: tl.constexpr, R: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr, PAGE: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """One program: one new token of one row. Strides are in elements of the pointer they belong to."""
    i, b = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    t = tl.load(lengths_ptr + b).to(tl.int32) + i
    fits = (t >= 0) & (t < columns * PAGE)
    if counts_ptr is not None:
        fits &= i < tl.load(counts_ptr + b)
    x = tl.load(table_ptr + b * table_row + t // PAGE, mask=fits, other=-1).to(tl.int64)
    fits &= (x >= 0) & (x < P)
    y = t % PAGE
    channel = tl.arange(0, CP)
    c = tl.load(c_ptr + b * c_b + i * c_n + channel, mask=channel < C, other=0.0)
    if FP8:
        tiles = c.to(tl.float32).reshape(CP // 128, 128)
        scale, inverse = scale_of(magnitude(tiles, 1), clamp, False)
        codes = to_e4m3(tiles * inverse[:, None]).reshape(CP)
        tl.store(to_c_ptr + x * page + y * token + channel, codes, mask=fits & (channel < C))
        tl.store(to_s_ptr + x * s_page + y * s_token + tl.arange(0, CP // 128), scale, mask=fits)
    else:
        tl.store(to_c_ptr + x * page + y * token + channel, c, mask=fits & (channel < C))
    if R > 0:
        turned = tl.arange(0, RP)
        r = tl.load(r_ptr + b * r_b + i * r_n + turned, mask=turned < R, other=0.0)
        if FP8:
            r = narrow(r.to(tl.float32), tl.bfloat16)
        tl.store(to_r_ptr + x * r_page + y * r_token + turned, r, mask=fits & (turned < R))


def parts_of(pages: Tensor, C: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pages (or a contiguous cache) as c (.., C), r (.., R) and, of FP8 tokens, scales (.., C/128): views."""
    if pages.dtype != torch.uint8:
        return pages[..., :C], pages[..., C:], None
    scales = pages.view(torch.float32)[..., C // 4 : C // 4 + C // TILE]  # behind the codes, 4 bytes each
    r = pages.view(torch.bfloat16)[..., C // 2 + 2 * C // TILE :]
    return pages[..., :C].view(torch.float8_e4m3fn), r, scales


def launches_append(
    pages: Tensor, c: Tensor, r: Tensor | None, block_table: Tensor, lengths: Tensor, counts: Tensor | None
) -> tuple[Launch, ...]:
    """As the launcher's arguments; pages (P, 64, W)."""
    (B, n, C), R = c.shape, 0 if r is None else r.shape[-1]
    to_c, to_r, to_s = parts_of(pages, C)
    args = {
        "c_ptr": c, "r_ptr": r, "to_c_ptr": to_c, "to_r_ptr": to_r if R else None, "to_s_ptr": to_s,
        "table_ptr": block_table, "lengths_ptr": lengths, "counts_ptr": counts, "n": n, "P": pages.shape[0],
        "columns": block_table.shape[1], "table_row": block_table.stride(0), "c_b": c.stride(0), "c_n": c.stride(1),
        "r_b": 0 if r is None else r.stride(0), "r_n": 0 if r is None else r.stride(1),
        "page": to_c.stride(0), "token": to_c.stride(1), "r_page": to_r.stride(0), "r_token": to_r.stride(1),
        "s_page": 0 if to_s is None else to_s.stride(0), "s_token": 0 if to_s is None else to_s.stride(1),
        "clamp": ACTIVATION, "C": C, "R": R, "CP": triton.next_power_of_2(C), "RP": triton.next_power_of_2(max(R, 1)),
        "PAGE": PAGE, "FP8": pages.dtype == torch.uint8,
    }  # fmt: skip
    return (Launch(kernel_append, (n, B), args, {"num_warps": 1 if C <= 128 else 2}),)


def append(
    pages: Tensor,
    c: Tensor,
    r: Tensor | None,
    block_table: Tensor,
    lengths: Tensor,
    counts: Tensor | None = None,
) -> None:
    """As ``reference_append``; lengths and counts int32 (B). Raises ValueError."""
    op = "append"
    checks.tensor(op, "c", c, DTYPES, (None, None, None), aligned=False)
    B, n, C = c.shape
    if r is not None:
        checks.tensor(op, "r", r, c.dtype, (B, n, None), aligned=False)
    R = 0 if r is None else r.shape[-1]
    checks.tensors(op, pages=pages)
    if pages.dtype == torch.uint8:
        checks.tensor(op, "pages", pages, torch.uint8, (None, PAGE, FP8_TOKEN))
        if (C, R) != (LATENT, ROPE):
            raise ValueError(f"{op}: c and r are {C} and {R} wide; FP8 pages hold {LATENT} and {ROPE}")
    else:
        checks.tensor(op, "pages", pages, c.dtype, (None, PAGE, C + R), aligned=False)
    checks.tensor(op, "block_table", block_table, torch.int32, (B, None), aligned=False)
    checks.tensor(op, "lengths", lengths, torch.int32, (B,), aligned=False)
    given = [pages, c, block_table, lengths, *(t for t in (r, counts) if t is not None)]
    if counts is not None:
        checks.tensor(op, "counts", counts, torch.int32, (B,), aligned=False)
    checks.device(op, NEEDS, *given)
    if R and not C:
        raise ValueError(f"{op}: c has shape {tuple(c.shape)}, expected at least one channel before those of r")
    if not pages.is_meta and C:
        run(launches_append(pages, c, r, block_table, lengths, counts))


class PagedCache:
    """``layers`` tensors of pages (P, 64, W) behind one table; all layers of a step are written before it advances."""

    def __init__(
        self,
        layers: int,
        table: PageTable,
        width: int = LATENT + ROPE,
        *,
        fp8: bool = False,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.table, (width, dtype) = table, (FP8_TOKEN, torch.uint8) if fp8 else (width, dtype)
        device = table.block_table.device
        self.layers = [torch.zeros(table.pages, PAGE, width, dtype=dtype, device=device) for _ in range(layers)]

    @property
    def nbytes(self) -> int:
        """Bytes of the pages of all layers."""
        return sum(layer.nbytes for layer in self.layers)

    def append(self, layer: int, c: Tensor, r: Tensor | None) -> None:
        """Write the next tokens c (B, n, C), r (B, n, R) of one layer; their pages are reserved first."""
        self.table.reserve(c.shape[1])
        append(self.layers[layer], c, r, self.table.block_table, self.table.lengths)

    def fill(self, layer: int, latents: Tensor, lengths: Sequence[int], value_dim: int = LATENT) -> None:
        """Copy the first ``lengths`` tokens a row of a contiguous cache (B, capacity, C+R) behind those here."""
        self.table.reserve(lengths)
        counts = torch.tensor(list(lengths), dtype=torch.int32, device=latents.device)
        new = latents[:, : max(lengths, default=0)]
        c, r = new[..., :value_dim], new[..., value_dim:]
        append(self.layers[layer], c, r, self.table.block_table, self.table.lengths, counts)

    def contiguous(self, layer: int, dtype: torch.dtype | None = None) -> Tensor:
        """A layer as (B, L, C+R), L the longest row's length; zeros past a row's length."""
        longest = max(self.table.host_lengths, default=0)
        tokens = gathered(self.layers[layer], self.table.block_table, dtype)[:, :longest]
        past = torch.arange(longest, device=tokens.device) >= self.table.lengths[:, None]
        return tokens.masked_fill(past[..., None], 0)
