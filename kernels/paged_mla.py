"""MLA decode in absorbed form over a paged latent cache (V2 paper, section 2.1.2; V3 report, section 2.1.1).

    reference     the definition
    paged_mla     launcher: pages of latents, or of FlashMLA's FP8 tokens
    mla_decode    launcher: the same kernels over a contiguous cache, as mla_decode.mla_decode

All heads of a token's query read the same latents, so S * H query rows share each tile of the cache, which is key and
value at once. A sequence's tokens are split over programs where batch and heads alone do not fill the GPU; parts are
joined by their log-sum-exp, in fixed order.

B sequences  S new tokens (the last S of ``lengths``)  H heads  C latent width  R decoupled key width  L tokens at most
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor
from v3bench.kernels import checks, combine, tables
from v3bench.kernels.launch import Config, Launch, cdiv, run, sms, split
from v3bench.kernels.operation import operation
from v3bench.kernels.page_table import PAGE
from v3bench.kernels.paged_cache import FP8_TOKEN, LATENT, ROPE, gathered, parts_of
from v3bench.kernels.paged_mla_exact import kernel_exact
from v3bench.kernels.paged_mla_kernels import kernel_few, kernel_many

NEEDS = checks.HOPPER
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LOG2E = 1.4426950408889634
FEW = 32  # query rows up to which tokens are the rows of the products
HOST = ("PER_SM", "SPLITS")  # of a configuration: CTAs that share an SM; the number of splits, if it is given
WIDE = {"BLOCK_H": 16, "BLOCK_N": 16, "PART": 128, "PER_SM": 1, "num_warps": 8, "num_stages": 2}  # for float32


def reference(
    q: Tensor, pages: Tensor, block_table: Tensor, lengths: Tensor, *, scale: float, value_dim: int = 512
) -> tuple[Tensor, Tensor]:
    """q (B, S, H, C+R), pages (P, 64, C+R) or uint8 (P, 64, 656), block_table (B, pages), lengths (B)
    -> out (B, S, H, C) as q, lse (B, S, H) in float32, natural logarithm.

    Query s of row b sees the first lengths[b] - S + s + 1 tokens; where that is none, out is 0 and lse -inf.
    Computed in at least float32 from the dequantised cache, rounded once.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    S, latents = q.shape[1], gathered(pages, block_table, wide)  # (B, L, C+R)
    position = lengths[:, None] - S + torch.arange(S, device=q.device)  # (B, S)
    token = torch.arange(latents.shape[1], device=q.device)
    latents = latents.masked_fill((token >= lengths[:, None])[..., None], 0)  # unused slots may hold anything
    scores = torch.einsum("bshw,blw->bshl", q.to(wide), latents) * scale
    scores = scores.masked_fill((token > position[..., None])[:, :, None], float("-inf"))
    lse = scores.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse == float("-inf"), 0)[..., None]).exp()
    out = torch.einsum("bshl,blc->bshc", weights, latents[..., :value_dim])
    return out.to(q.dtype), lse.to(torch.promote_types(lse.dtype, torch.float32))


def launches(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    lse: Tensor,
    parts: tuple[Tensor, Tensor] | None,
    *,
    scale: float,
    config: Config,
) -> tuple[Launch, ...]:
    """Over pages (P, 64, W), or without a block_table over latents (B, L, W); parts as ``empty_parts`` makes them."""
    (B, S, H, W), C = q.shape, out.shape[-1]
    q = q.flatten(1, 2)  # (B, rows, W), copied where its rows are not evenly spaced
    R, rows = W - C, S * H
    blocks, options = split({name: value for name, value in config.items() if name not in HOST})
    CP, RP = padded(C), padded(R)
    c, r, scales = parts_of(cache, C)
    part, part_lse = parts or (out.view(1, B, rows, C), lse.view(1, B, rows))
    splits = part.shape[0]

    def descriptor(view: Tensor | None, length: int, width: int) -> TensorDescriptor | None:
        return None if view is None else TensorDescriptor.from_tensor(view, [1, length, width])

    BLOCK_H, BLOCK_N = blocks["BLOCK_H"], blocks["BLOCK_N"]
    args = {
        "c_ptr": c, "table_ptr": block_table, "lengths_ptr": lengths, "out_ptr": part, "lse_ptr": part_lse,
        "L": longest(cache, block_table), "X": cache.shape[0],
        "table_row": 0 if block_table is None else block_table.stride(0), "rows": rows, "H": H, "S": S,
        "slope": scale * LOG2E, "page": c.stride(0), "out_split": part.stride(0), "lse_split": part_lse.stride(0),
        "C": C, "R": R, "RP": RP, "TOKEN": c.stride(1), "PAGE": 0 if block_table is None else PAGE, **blocks,
    }  # fmt: skip
    by_pointer = {"q_ptr": q, "q_b": q.stride(0), "q_row": q.stride(1)}
    described = {
        "c_desc": descriptor(c, BLOCK_N, CP), "r_desc": descriptor(r, BLOCK_N, RP),
        "s_desc": descriptor(scales, BLOCK_N, CP // 128), "CP": CP, "FP8": cache.dtype == torch.uint8,
    }  # fmt: skip
    grid = (cdiv(rows, BLOCK_H), splits, B)
    passes = cdiv(cdiv(longest(cache, block_table), BLOCK_N), splits)
    if "PART" in blocks:
        width = min(blocks["PART"], CP)
        args |= by_pointer | {"PART": width, "PARTS": CP // width}
        made = (Launch(kernel_exact, grid, args, options, passes=passes),)
    elif BLOCK_H <= FEW and BLOCK_N >= 64:
        args |= by_pointer | described
        made = (Launch(kernel_few, grid, args, options, passes=passes),)
    else:
        args |= described
        args |= {"q_desc": descriptor(q[..., :C], BLOCK_H, CP), "qr_desc": descriptor(q[..., C:], BLOCK_H, RP)}
        made = (Launch(kernel_many, grid, args, options, passes=passes),)
    if parts is None:
        return made
    return (*made, *combine.launches(part.flatten(1, 2), part_lse.flatten(1, 2), out.view(-1, C), lse.view(-1)))


def padded(width: int) -> int:
    """The power of two that a tile's width is padded to, at least what a matrix instruction takes."""
    return max(16, 1 << (width - 1).bit_length())


def longest(cache: Tensor, block_table: Tensor | None) -> int:
    """Tokens a row has room for."""
    return cache.shape[1] if block_table is None else block_table.shape[1] * PAGE


def splits_of(B: int, rows: int, L: int, config: Config, sms: int) -> int:
    """How many programs share a sequence: as many as make the last wave end soonest, in tiles of BLOCK_N tokens.

    A program costs about three tiles besides its own: the queries, the pipeline's filling, the output. Parts have to
    be joined, which is a launch more.
    """
    if "SPLITS" in config:
        return config["SPLITS"]
    slots, programs = sms * config["PER_SM"], B * cdiv(rows, config["BLOCK_H"])
    tiles = max(cdiv(L, config["BLOCK_N"]), 1)

    def cost(n: int) -> int:
        return cdiv(programs * n, slots) * (cdiv(tiles, n) + 3) + (2 if n > 1 else 0)

    return min(range(1, min(tiles, max(2 * slots // programs, 1)) + 1), key=cost)


def empty_parts(splits: int, B: int, rows: int, C: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Room for the parts and their log-sum-exp, in float32; None where nothing is split."""
    if splits == 1:
        return None
    parts = torch.empty(splits, B, rows, C, dtype=torch.float32, device=device)
    return parts, torch.empty(splits, B, rows, dtype=torch.float32, device=device)


def attend(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor | None,
    lengths: Tensor | None,
    *,
    C: int,
    scale: float,
    config: Config | None,
) -> tuple[Tensor, Tensor]:
    """Checked arguments -> out (B, S, H, C), lse (B, S, H)."""
    B, S, H, _ = q.shape
    out = torch.empty(B, S, H, C, dtype=q.dtype, device=q.device)
    lse = torch.empty(B, S, H, dtype=torch.float32, device=q.device)
    L = longest(cache, block_table)
    if L == 0:  # no tokens at all
        return out.zero_(), lse.fill_(float("-inf"))
    if config is None:
        op = "paged_mla_fp8" if cache.dtype == torch.uint8 else "paged_mla"
        config = WIDE if q.dtype == torch.float32 else tables.choose(op, q.device, B=B, S=S, H=H, L=L)
    if not q.is_meta and out.numel():
        parts = empty_parts(splits_of(B, S * H, L, config, sms(q.device)), B, S * H, C, q.device)
        run(launches(q, cache, block_table, lengths, out, lse, parts, scale=scale, config=config))
    return out, lse


def paged_mla(
    q: Tensor,
    pages: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    value_dim: int = 512,
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``reference``; block_table (its rows may be padded) and lengths int32. Raises ValueError.

    Entries of the table past a row's length and slots past it may hold anything. A length beyond the table, or a page
    that is not there, makes the row NaN: nothing of it can be known without waiting for the GPU.
    """
    op = "paged_mla"
    if isinstance(pages, Tensor) and pages.dtype == torch.uint8:
        op = "paged_mla_fp8"
        check_query(op, q, value_dim, 576 if value_dim == 512 else None)
        checks.tensor(op, "q", q, torch.bfloat16, (None,) * 4)  # as the keys that FP8 tokens hold besides
        if value_dim != 512:
            raise ValueError(f"{op}: value_dim is {value_dim}, expected 512, of which FP8 pages hold latents")
        checks.tensor(op, "pages", pages, torch.uint8, (None, PAGE, FP8_TOKEN))
    else:
        check_query(op, q, value_dim, None)
        checks.tensor(op, "pages", pages, q.dtype, (None, PAGE, q.shape[-1]))
    checks.tensor(op, "block_table", block_table, torch.int32, (q.shape[0], None), aligned=False)
    checks.tensor(op, "lengths", lengths, torch.int32, (q.shape[0],), aligned=False)
    checks.device(op, NEEDS, q, pages, block_table, lengths)
    if q.numel() and block_table.numel() and not len(pages):
        raise ValueError(f"{op}: pages has shape {tuple(pages.shape)}, expected at least one page")
    check_inference(op, q, pages)
    return attend(q, pages, block_table, lengths, C=value_dim, scale=scale, config=config)


@operation
def mla_decode(
    q: Tensor,
    latents: Tensor,
    *,
    value_dim: int,
    scale: float,
    lengths: Tensor | None = None,
    config: Config | None = None,
) -> Tensor:
    """As mla_decode.reference: q (B, S, H, C+R), latents (B, L, C+R) -> (B, S, H, C). Raises ValueError.

    Latents may be a view of a larger cache, with any dense rows. For inference: it has no gradient.
    """
    op = "mla_decode"
    check_query(op, q, value_dim, None)
    checks.tensor(op, "latents", latents, q.dtype, (q.shape[0], None, q.shape[-1]))
    if latents.shape[1] * latents.stride(1) > checks.MOST:
        raise ValueError(
            f"{op}: latents has strides {latents.stride()}; a row must not span more than 2^31 - 1 elements"
        )
    if lengths is not None:
        checks.tensor(op, "lengths", lengths, (torch.int32, torch.int64), (q.shape[0],), aligned=False)
    checks.device(op, NEEDS, q, latents, *([] if lengths is None else [lengths]))
    check_inference(op, q, latents)
    return attend(q, latents, None, lengths, C=value_dim, scale=scale, config=config)[0]


def check_query(op: str, q: Tensor, value_dim: int, width: int | None) -> None:
    """What both forms ask of the queries. Raises ValueError."""
    checks.tensor(op, "q", q, DTYPES, (None, None, None, width))
    lanes = checks.ALIGNMENT // q.itemsize
    if not 0 < value_dim < q.shape[-1] or value_dim % lanes:
        raise ValueError(
            f"{op}: value_dim is {value_dim}, expected a multiple of {lanes} below the queries' width {q.shape[-1]}"
        )


def check_inference(op: str, *inputs: Tensor) -> None:
    """Decoding has no gradient: say so rather than return a constant. Raises ValueError."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        raise ValueError(f"{op}: has no gradient; call it under torch.no_grad(), or train with kernels.ops.TORCH")


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches of an operation at a table's shape on the meta device, for compilation ahead of time.

    Raises ValueError for blocks of rows that would be half padding or more: where memory decides, nothing else tells.
    """

    def empty(*size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    B, S, H, L = (shape[name] for name in "BSHL")
    if config["BLOCK_H"] > padded(S * H):
        raise ValueError(f"{op}: BLOCK_H is {config['BLOCK_H']}, expected at most {padded(S * H)} for {S * H} rows")
    columns = cdiv(L, PAGE)
    fp8 = op == "paged_mla_fp8"
    pages = empty(B * columns, PAGE, FP8_TOKEN if fp8 else LATENT + ROPE, dtype=torch.uint8 if fp8 else torch.bfloat16)
    splits = splits_of(B, S * H, L, config, sms(pages.device))
    return launches(
        empty(B, S, H, LATENT + ROPE),
        pages,
        empty(B, columns, dtype=torch.int32),
        empty(B, dtype=torch.int32),
        empty(B, S, H, LATENT),
        empty(B, S, H, dtype=torch.float32),
        empty_parts(splits, B, S * H, LATENT, torch.device("meta")),
        scale=0.1,
        config=config,
    )


# With 64 query rows a tile of 64 tokens and its successor fill the shared memory. Of FP8 tokens TAIL is unused.
CANDIDATES = {
    "paged_mla": [
        {"BLOCK_H": 64, "BLOCK_N": 64, "TAIL": 16, "PER_SM": 1, "num_warps": 8, "num_stages": 2},
        {"BLOCK_H": 64, "BLOCK_N": 32, "TAIL": 16, "PER_SM": 1, "num_warps": 8, "num_stages": 3},
        {"BLOCK_H": 32, "BLOCK_N": 64, "TAIL": 16, "PER_SM": 1, "num_warps": 4, "num_stages": 2},
        {"BLOCK_H": 16, "BLOCK_N": 64, "TAIL": 16, "PER_SM": 1, "num_warps": 4, "num_stages": 2},
    ],
    "paged_mla_fp8": [
        {"BLOCK_H": 64, "BLOCK_N": 64, "TAIL": 64, "PER_SM": 1, "num_warps": 8, "num_stages": 2},
        {"BLOCK_H": 64, "BLOCK_N": 32, "TAIL": 32, "PER_SM": 1, "num_warps": 8, "num_stages": 2},
        # 32 query rows, and 16 with 4 warps, spill: two tokens of 16 heads are two blocks, which share a tile in L2.
        {"BLOCK_H": 16, "BLOCK_N": 64, "TAIL": 64, "PER_SM": 1, "num_warps": 8, "num_stages": 2},
    ],
}
SHAPES = [
    (128, 1, 128, 8192), (128, 1, 128, 32768), (128, 2, 128, 8192), (32, 1, 128, 4096), (8, 1, 128, 8192),
    (1, 1, 128, 8192), (1, 1, 128, 32768), (1, 2, 128, 8192), (128, 1, 16, 8192), (128, 1, 16, 32768),
    (128, 2, 16, 8192), (32, 1, 16, 4096), (8, 1, 16, 8192), (1, 1, 16, 8192), (1, 1, 16, 32768), (1, 2, 16, 8192),
]  # fmt: skip
TABLE_SHAPES = {op: [dict(zip("BSHL", shape, strict=True)) for shape in SHAPES] for op in CANDIDATES}
