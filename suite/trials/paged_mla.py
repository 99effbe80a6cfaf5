"""Trials of MLA decode over a paged cache (kernels/paged_mla.py): rows of L tokens, in scattered pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from v3bench.kernels import mla_decode, paged_mla
from v3bench.kernels.page_table import PAGE
from v3bench.kernels.paged_cache import FP8_TOKEN, LATENT, ROPE, gathered, quantized
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.trial import Inputs, Missing, Rival, Shape, Trial, package

SCALE = (128 + ROPE) ** -0.5  # of a head's N + R channels before absorption
SPARE = 3  # pages that no row has, so that a wrong entry does not hit a right page
SHORTEST = 1024  # tokens from which every row has exactly L, so that the work counted is the work done
MOST_BYTES = 60 * 2**30  # that a rival may take for copies and scores
# Sums of float32 products of exact operands: a few units of 1e-7 per score.
LSE_BAR = 1e-4
# Keys of the FP8 cache are rounded to bfloat16 before the product: 2^-9 of |q| |k| scale, about 2e-3 at |q| |k| = 24^2
# per row of few tokens, less where many are averaged.
LSE_BAR_FP8 = 2e-2


def latents(shape: Shape, device: str) -> Inputs:
    """B, S, H, L as in laws/work.py, and C (512), R (64). Rows of L tokens; below SHORTEST, odd rows of a tenth less.

    Slots past a row's length, spare pages and table entries past its last page hold NaN, and -1.
    """
    B, S, H, L = (shape[name] for name in "BSHL")
    C, R, columns = shape.get("C", LATENT), shape.get("R", ROPE), -(-L // PAGE)
    lengths = torch.full((B,), L, device=device, dtype=torch.int32)
    if L < SHORTEST:
        lengths[1::2] = L - L // 10 - 1
    count = B * columns + SPARE
    table = torch.randperm(count, device=device)[: B * columns].view(B, columns).int()
    pages = torch.randn(count, PAGE, C + R, device=device, dtype=torch.bfloat16)
    unused = torch.ones(count, PAGE, dtype=torch.bool, device=device)
    slot = torch.arange(columns * PAGE, device=device).view(columns, PAGE)
    unused[table.long()] = slot >= lengths[:, None, None]
    pages.masked_fill_(unused[..., None], float("nan"))
    table.masked_fill_(slot[:, 0] >= lengths[:, None], -1)
    return {
        "q": torch.randn(B, S, H, C + R, device=device, dtype=torch.bfloat16),
        "pages": pages,
        "block_table": table,
        "lengths": lengths,
        "scale": SCALE,
        **({} if C == LATENT else {"value_dim": C}),
    }


def coded(shape: Shape, device: str) -> Inputs:
    """The same in FlashMLA's FP8 layout; unused slots hold 0xFF bytes, NaN in all three formats."""
    inputs = latents(shape, device)
    pages = inputs["pages"]
    made = torch.empty(*pages.shape[:2], FP8_TOKEN, dtype=torch.uint8, device=device)
    for page, into in zip(pages.split(4096), made.split(4096), strict=True):  # the reference works in float32
        flat = page.flatten(0, 1)
        into.copy_(quantized(flat[:, :LATENT], flat[:, LATENT:]).view(into.shape))
    made.masked_fill_(pages[..., :1].isnan(), 0xFF)
    return {**inputs, "pages": made}


def oracle(q: Tensor, pages: Tensor, block_table: Tensor, lengths: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    """The definition in float64, row by row: all rows at once would not fit."""
    rows = []
    for b in range(len(q)):
        own = pages[block_table[b].clamp(min=0).long()]
        table = torch.arange(len(own), device=q.device, dtype=torch.int32)[None]
        rows.append(paged_mla.reference(q[b : b + 1].double(), own, table, lengths[b : b + 1], **given))
    return torch.cat([out for out, _ in rows]), torch.cat([lse for _, lse in rows])


def close(bar: float) -> Callable[[Any, tuple[Tensor, Tensor], Inputs], float]:
    """Outputs as ``output_close``, and lse within ``bar``; both -inf is equal."""

    def error(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], inputs: Inputs) -> float:
        apart = (got[1].double() - want[1]).abs().masked_fill(got[1].isneginf() & want[1].isneginf(), 0).max()
        return max(output_close(got, want, inputs), float(apart.nan_to_num(float("inf")) / bar))

    return error


def output_close(got: Any, want: tuple[Tensor, Tensor], inputs: Inputs) -> float:
    """Worst head's error in units of one rounding to bfloat16.

    Three roundings may happen, of a cached FP8 latent, of the weights and of the result, each 0.2 to 0.3 of a unit in
    the mean square: a right kernel stays below six tenths.
    """
    out = got[0] if isinstance(got, tuple) else got
    return rounding_error(out, want[0], torch.bfloat16)


def contiguous(inputs: Inputs) -> Tensor:
    """Latents (B, L, C+R) without pages, in bfloat16, zeros past a row's length."""
    q, table, lengths = inputs["q"], inputs["block_table"], inputs["lengths"]
    L = int(lengths.max())
    room(inputs, 2 * L * q.shape[0] * (2 * q.shape[3] + 3 * q.shape[1] * q.shape[2]))
    tokens = torch.cat([gathered(inputs["pages"], row[None], q.dtype)[:, :L] for row in table])
    return tokens.masked_fill_((torch.arange(L, device=q.device) >= lengths[:, None])[..., None], 0)


def room(inputs: Inputs, nbytes: int) -> None:
    """Raises Missing where a rival would take too much memory."""
    if nbytes > MOST_BYTES:
        raise Missing(f"needs {nbytes / 1e9:.0f} GB of copies and scores")


def three_calls(inputs: Inputs) -> Callable[[], Tensor]:
    """Scores, softmax, weighted sum, the products by cuBLAS and the rest compiled, over a contiguous copy."""
    tokens, q, lengths = contiguous(inputs), inputs["q"], inputs["lengths"]
    varied = None if bool((lengths == tokens.shape[1]).all()) else lengths
    call = {"value_dim": inputs.get("value_dim", LATENT), "scale": inputs["scale"], "lengths": varied}
    function = torch.compile(mla_decode.mla_decode.__wrapped__, dynamic=False)  # type: ignore[attr-defined]

    def run() -> Tensor:
        with torch.no_grad():
            return function(q, tokens, **call)  # type: ignore[no-any-return]

    return run


def compiled(inputs: Inputs) -> Callable[[], Any]:
    """torch.compile of the plain definition, pages and all, in float32."""
    (B, S, H, W), L = inputs["q"].shape, inputs["block_table"].shape[1] * PAGE
    room(inputs, 4 * B * L * (2 * W + 3 * S * H))
    function = torch.compile(paged_mla.reference, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: function(**inputs)


def flash_mla(inputs: Inputs) -> Callable[[], tuple[Tensor, Tensor]]:
    """flash_mla_with_kvcache on the same pages, its tile scheduler's metadata made beforehand."""
    library = package("flash_mla")
    q, pages, lengths = inputs["q"], inputs["pages"].unsqueeze(2), inputs["lengths"]
    S, H = q.shape[1:3]
    metadata, splits = library.get_mla_metadata(lengths, S * H, 1)
    given = (q, pages, inputs["block_table"], lengths, LATENT, metadata, splits)

    def run() -> tuple[Tensor, Tensor]:
        out, lse = library.flash_mla_with_kvcache(*given, softmax_scale=inputs["scale"], causal=True)
        return out, lse.transpose(1, 2)  # (B, H, S) there

    return run


def flash_mla_fp8(inputs: Inputs) -> Callable[[], Any]:
    """There is none to compare with."""
    package("flash_mla")
    raise Missing("FlashMLA reads its FP8 cache in sparse attention only")


def flashinfer(inputs: Inputs) -> Callable[[], Tensor]:
    """BatchMLAPagedAttentionWrapper, planned beforehand, on the same pages."""
    library = package("flashinfer")
    q, pages, table, lengths = inputs["q"], inputs["pages"], inputs["block_table"], inputs["lengths"]
    B, S, H, _ = q.shape
    counts = (lengths + PAGE - 1) // PAGE
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    indices = table[torch.arange(table.shape[1], device=q.device) < counts[:, None]]
    wrapper = library.mla.BatchMLAPagedAttentionWrapper(torch.empty(2**27, dtype=torch.uint8, device=q.device))
    queries = torch.arange(B + 1, dtype=torch.int32, device=q.device) * S
    wrapper.plan(
        queries, starts, indices, lengths, H, LATENT, ROPE, PAGE, True, inputs["scale"], q.dtype, pages.dtype
    )  # fmt: skip
    q_c, q_r = (part.flatten(0, 1).contiguous() for part in q.split([LATENT, ROPE], dim=-1))
    c, r = pages[..., :LATENT], pages[..., LATENT:]
    return lambda: wrapper.run(q_c, q_r, c, r).view(B, S, H, LATENT)


COPY = "over a contiguous bfloat16 copy of the latents, made beforehand"
ARGUMENTS = (
    "q (B, S, H, 576) bfloat16; pages {pages}; block_table (B, most pages) and lengths (B) int32; scale float -> "
    "out (B, S, H, 512) bfloat16, lse (B, S, H) float32, natural logarithm. Query s is token lengths[b] - S + s of its "
    "row and sees the tokens up to itself; what lies past a row's length may be NaN, and its table entries -1"
)
FEW = {"BLOCK_H": 16, "BLOCK_N": 64, "TAIL": 16, "PER_SM": 1, "SPLITS": 2, "num_warps": 4, "num_stages": 2}
TRIALS = {
    "paged_mla": Trial(
        op="paged_mla",
        calling="f(q, pages, block_table, lengths, scale): " + ARGUMENTS.format(pages="(pages, 64, 576) bfloat16"),
        inputs=latents,
        ours=paged_mla.paged_mla,
        oracle=oracle,
        error=close(LSE_BAR),
        rivals={
            "cublas": Rival(three_calls, f"three calls, compiled, {COPY}", output_close),
            "compiled": Rival(compiled, "torch.compile of the definition", close(LSE_BAR)),
            "flash_mla": Rival(flash_mla, "FlashMLA, same pages", close(LSE_BAR)),
            "flashinfer": Rival(flashinfer, "FlashInfer, same pages, planned beforehand", output_close),
        },
        small=(
            {"B": 2, "S": 1, "H": 1, "L": 75, "C": 64, "R": 64},
            {"B": 2, "S": 2, "H": 3, "L": 129, "C": 32, "R": 8},
            {"B": 1, "S": 3, "H": 3, "L": 64, "C": 24, "R": 24},
        ),
        small_config=FEW,
    ),
    "paged_mla_fp8": Trial(
        op="paged_mla_fp8",
        calling="f(q, pages, block_table, lengths, scale): "
        + ARGUMENTS.format(pages="(pages, 64, 656) uint8: 512 e4m3, 4 float32 scales, 64 bfloat16"),
        inputs=coded,
        ours=paged_mla.paged_mla,
        oracle=oracle,
        error=close(LSE_BAR_FP8),
        rivals={
            "cublas": Rival(three_calls, f"three calls, compiled, {COPY}", output_close),
            "compiled": Rival(compiled, "torch.compile of the definition", close(LSE_BAR_FP8)),
            "flash_mla": Rival(flash_mla_fp8, "FlashMLA"),
        },
        small=({"B": 2, "S": 1, "H": 3, "L": 75}, {"B": 1, "S": 2, "H": 1, "L": 65}),
        small_config={**FEW, "SPLITS": 1},
        precision="fp8",
    ),
}
