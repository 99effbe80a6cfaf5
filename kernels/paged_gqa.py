"""Decoding attention over a paged cache of keys and values.

    reference, reference_fp8    the definitions
    paged_gqa                   launcher over pages of bfloat16
    paged_gqa_fp8               over pages of e4m3 with a float32 scale per token and head

The kernel is gqa_decode.py's. Scales per token and head: a token is quantised once, when it is appended, from itself
alone (gqa_quantize.py). A scale per head would have to be known beforehand, or the pages written anew whenever a larger
token comes; it can still be given, as an expanded tensor. The scales are 8 of 264 bytes at d = 128.

B rows  S queries a row, the last of its tokens  H heads  J key-value heads  G = H/J  L tokens of a row's table
d, v widths of key and value
"""

from __future__ import annotations

import torch
from torch import Tensor
from v3bench.kernels import checks, tables
from v3bench.kernels.attention import visible
from v3bench.kernels.gqa_decode import FP8, NEEDS, PAGE, check, launches
from v3bench.kernels.launch import Config, Launch, cdiv, run

NEEDS_FP8 = checks.HOPPER


def reference(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """q (B, S, H, d), k_pages (pages, 64, J, d), v_pages (pages, 64, J, v) -> (B, S, H, v), lse (B, S, H) float32.

    Token l of row b lies in page block_table[b, l // 64], slot l % 64; lengths[b] tokens are valid. Query s is token
    lengths[b] - S + s of its row and sees the tokens up to itself, at most ``window`` of them. What sees nothing is 0,
    with a lse (natural logarithm) of -inf. Computed in at least float32, rounded once.
    """
    wide, L = torch.promote_types(q.dtype, torch.float32), block_table.shape[1] * PAGE
    there = torch.arange(L, device=q.device) < lengths[:, None]  # (B, L)
    k, v = (
        pages[block_table.clamp(0, len(pages) - 1)].flatten(1, 2).masked_fill(~there[..., None, None], 0).to(wide)
        for pages in (k_pages, v_pages)
    )  # (B, L, J, d), (B, L, J, v)
    shared = q.to(wide).unflatten(2, (k.shape[2], -1))  # (B, S, J, G, d)
    scores = torch.einsum("bsjgd,bljd->bsjgl", shared, k) * scale
    seen = visible(q.shape[1], L, causal=True, window=window, lengths=lengths, device=q.device)[:, :, None, None]
    scores = scores.masked_fill(~seen, float("-inf"))
    lse = scores.logsumexp(-1)
    weights = (scores - lse[..., None]).exp().masked_fill(~seen, 0)
    out = torch.einsum("bsjgl,bljv->bsjgv", weights, v)
    return out.flatten(2, 3).to(q.dtype), lse.flatten(2, 3)


def reference_fp8(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    k_scales: Tensor,
    v_scales: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``reference``, of codes e4m3 and scales (pages, 64, J) float32: an element is code times scale."""
    wide = torch.promote_types(q.dtype, torch.float32)
    k, v = (codes.to(wide) * scales[..., None] for codes, scales in ((k_pages, k_scales), (v_pages, v_scales)))
    out, lse = reference(q.to(wide), k, v, block_table, lengths, scale=scale, window=window)
    return out.to(q.dtype), lse


def paged_gqa(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None = None,
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``reference``: q, pages bf16, f16 or f32 alike, block_table int32 (B, most pages), lengths int (B).

    The entries of the table beyond a row's length and the slots there may hold anything. A length beyond the table or
    a page beyond the pages makes the row NaN, as nothing of it can be known without waiting for the GPU. Raises
    ValueError.
    """
    checks.tensors("paged_gqa", q=q)
    check("paged_gqa", q, k_pages, v_pages, q.dtype, window)
    return paged("paged_gqa", q, k_pages, v_pages, None, None, block_table, lengths, scale, window, config)


def paged_gqa_fp8(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    k_scales: Tensor,
    v_scales: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None = None,
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``reference_fp8`` and ``paged_gqa``: q bf16 or f16; scales of any strides, best with a dense slot."""
    op = "paged_gqa_fp8"
    check(op, q, k_pages, v_pages, FP8, window)
    for name, scales, pages in (("k_scales", k_scales, k_pages), ("v_scales", v_scales, v_pages)):
        checks.tensors(op, **{name: scales})
        if scales.dtype != torch.float32 or scales.shape != pages.shape[:3]:
            have, want = f"{checks.short(scales.dtype)} {tuple(scales.shape)}", f"float32 {tuple(pages.shape[:3])}"
            raise ValueError(f"{op}: {name} is {have}, expected {want}")
    return paged(op, q, k_pages, v_pages, k_scales, v_scales, block_table, lengths, scale, window, config)


def paged(
    op: str, q: Tensor, k: Tensor, v: Tensor, k_scales: Tensor | None, v_scales: Tensor | None, block_table: Tensor,
    lengths: Tensor, scale: float, window: int | None, config: Config | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The rest of both launchers over pages."""
    (B, S, H, _), J = q.shape, k.shape[2]
    if k.shape[1] != PAGE:
        raise ValueError(f"{op}: k_pages has shape {tuple(k.shape)}, expected pages of {PAGE} tokens")
    checks.tensor(op, "block_table", block_table, torch.int32, (B, None), aligned=False)
    checks.tensor(op, "lengths", lengths, (torch.int32, torch.int64), (B,), aligned=False)
    scales = () if k_scales is None or v_scales is None else (k_scales, v_scales)
    checks.device(op, NEEDS_FP8 if scales else NEEDS, q, k, v, block_table, lengths, *scales)
    out = torch.empty(B, S, H, v.shape[3], dtype=q.dtype, device=q.device)
    lse = torch.empty(B, S, H, dtype=torch.float32, device=q.device)
    config = config or tables.choose(op, q.device, B=B, H=H, J=J, L=block_table.shape[1] * PAGE)
    if not q.is_meta and out.numel():
        run(
            launches(
                q, k, v, out, lse, scale=scale, window=window, config=config, lengths=lengths, block_table=block_table,
                k_scales=k_scales, v_scales=v_scales,
            )
        )  # fmt: skip
    return out, lse


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches of an operation at a table's shape on the meta device, for compilation ahead of time."""

    def empty(*size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    B, H, J, L, d = *(shape[name] for name in "BHJL"), shape.get("d", 128)
    pages, fp8 = B * cdiv(L, PAGE), op == "paged_gqa_fp8"
    q, out = empty(B, 1, H, d, dtype=torch.bfloat16), empty(B, 1, H, d, dtype=torch.bfloat16)
    k, v = (empty(pages, PAGE, J, d, dtype=FP8 if fp8 else torch.bfloat16) for _ in range(2))
    scales = [empty(pages, J, PAGE, dtype=torch.float32).transpose(1, 2) if fp8 else None for _ in range(2)]
    return launches(
        q, k, v, out, empty(B, 1, H, dtype=torch.float32), scale=d**-0.5, window=None, config=config,
        lengths=empty(B, dtype=torch.int32), block_table=empty(B, cdiv(L, PAGE), dtype=torch.int32),
        k_scales=scales[0], v_scales=scales[1],
    )  # fmt: skip


# Programs to aim at: about 4, 8, 2, 6 or 16 for each of 132 SMs, which hold 2 or 3 at a time.
PROGRAMS = (528, 1056, 264, 792, 2112)
CANDIDATES = {
    "paged_gqa": [
        {"BLOCK_N": 64, "PROGRAMS": programs, "num_warps": 4, "num_stages": stages}
        for stages in (3, 2)
        for programs in PROGRAMS
    ],
    # 168 registers let three programs share an SM; four stages do not fit into them.
    "paged_gqa_fp8": [
        {"BLOCK_N": 64, "PROGRAMS": programs, "num_warps": 4, **rest}
        for rest in ({"num_stages": 3, "maxnreg": 168}, {"num_stages": 4})
        for programs in PROGRAMS
    ],
}
SHAPES = [
    (1, 32, 8, 8192), (1, 32, 8, 65536), (8, 32, 8, 4096), (32, 32, 8, 4096), (64, 32, 8, 4096), (32, 32, 8, 16384),
    (64, 64, 8, 4096), (128, 128, 8, 4096), (64, 28, 4, 4096),
]  # fmt: skip
TABLE_SHAPES = {op: [dict(zip("BHJL", shape, strict=True)) for shape in SHAPES] for op in CANDIDATES}
