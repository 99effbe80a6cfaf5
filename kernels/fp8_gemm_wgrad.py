"""The weight gradient in FP8 (V3 report, section 3.3.2): dW = dY' X over the tokens, of one weight or of E experts.

    reference, reference_grouped        the definitions
    kernel                              Triton, both
    fp8_gemm_wgrad, grouped_fp8_wgrad   launchers

Both operands are stored with the tokens along their rows, dY' (M, T) and X' (N, T), and carry a scale per 1 x 128 tile
along the tokens: a product of 128 tokens is scaled by row and by column and added in float32 (promotion).

Of E experts, each expert's tokens lie side by side, padded with zero codes to a multiple of 128, so that no tile of a
scale belongs to two experts: ``ends`` (E) holds where each one's padded tokens end. An expert without tokens has the
gradient zero. Ends that are no such multiples, that fall, or lie beyond T cannot be refused without waiting for the
GPU: the gradient of an expert that starts or ends there is NaN.

M, N sides of the weight  T tokens (also K)  W = ceil(T/128) tiles  E experts
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks, fp8_gemm, tables
from v3bench.kernels.fp8_tiles import descriptor, joined, pinned, place, programs, zeros
from v3bench.kernels.launch import Config, Launch, cdiv, run, sms, split
from v3bench.kernels.quantize import FP8, TILE, empty_scales

NEEDS = checks.HOPPER


def reference(
    a: Tensor,
    a_scales: Tensor,
    b: Tensor,
    b_scales: Tensor,
    out: Tensor | None = None,
    compute: torch.dtype = torch.float32,
) -> Tensor:
    """a (M, T), a_scales (M, W), b (N, T), b_scales (N, W) -> (M, N) in ``compute``; added to ``out`` if given."""
    x, y = (
        codes.to(compute) * scales.to(compute).repeat_interleave(TILE, 1)[:, : codes.shape[1]]
        for codes, scales in ((a, a_scales), (b, b_scales))
    )
    return x @ y.T if out is None else out.to(compute) + x @ y.T


def reference_grouped(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, ends: Tensor, compute: torch.dtype = torch.float32
) -> Tensor:
    """a (M, T), b (N, T), their scales, ends (E) -> (E, M, N) in ``compute``."""
    out = torch.zeros(len(ends), len(a), len(b), dtype=compute, device=a.device)
    start = 0
    for e, end in enumerate(ends.tolist()):
        tokens, tiles = slice(start, end), slice(start // TILE, end // TILE)
        out[e] = reference(a[:, tokens], a_scales[:, tiles], b[:, tokens], b_scales[:, tiles], compute=compute)
        start = end
    return out


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    a_desc, b_desc, out_ptr, a_scales_ptr, b_scales_ptr, ends_ptr, M, N, T, experts,
    a_scales_row, a_scales_column, b_scales_row, b_scales_column, out_expert, out_row,
    BLOCK_M: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr,
    GROUPED: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Every program: tiles of BLOCK_M x PARTS * PART of the experts' gradients, a grid's width apart."""
    rows, columns = tl.cdiv(M, BLOCK_M), tl.cdiv(N, PARTS * PART)
    for tile in range(tl.program_id(0), rows * columns * experts, tl.num_programs(0)):
        expert = tile // (rows * columns)
        row, column = place(tile % (rows * columns), rows, columns, GROUP)
        m, n = row * BLOCK_M, column * (PARTS * PART)
        first, last, flaw = 0, tl.cdiv(T, 128), 0.0
        if GROUPED:
            start = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0)
            end = tl.load(ends_ptr + expert)
            sound = ((start | end) % 128 == 0) & (start >= 0) & (start <= end) & (end <= T)
            first = tl.where(sound, start // 128, 0).to(tl.int32)
            last = tl.where(sound, end // 128, 0).to(tl.int32)
            flaw = tl.where(sound, 0.0, float("nan"))
        ms = m + tl.arange(0, BLOCK_M)
        a_scales = a_scales_ptr + tl.minimum(ms, M - 1) * a_scales_row
        sums = zeros(BLOCK_M, PART, PARTS)
        for k in range(first, last):
            a_scale = tl.load(a_scales + k * a_scales_column)
            a = a_desc.load([m, k * 128])
            promoted = ()
            for i in tl.static_range(PARTS):
                ns = n + i * PART + tl.arange(0, PART)
                b_scale = tl.load(b_scales_ptr + ns * b_scales_row + k * b_scales_column, mask=ns < N, other=0.0)
                b = b_desc.load([n + i * PART, k * 128])
                product = tl.dot(a, b.T) * a_scale[:, None]
                promoted = joined(promoted, pinned(sums[i] + product * b_scale[None, :]))
            sums = promoted
        for i in tl.static_range(PARTS):
            ns = n + i * PART + tl.arange(0, PART)
            at = out_ptr + expert.to(tl.int64) * out_expert + ms.to(tl.int64)[:, None] * out_row + ns[None, :]
            inside = (ms < M)[:, None] & (ns < N)[None, :]
            made = sums[i]
            if GROUPED:
                made += flaw
            if ADD:
                made += tl.load(at, mask=inside, other=0.0)
            tl.store(at, made, mask=inside)


def launches(
    a: Tensor,
    a_scales: Tensor,
    b: Tensor,
    b_scales: Tensor,
    ends: Tensor | None,
    out: Tensor,
    *,
    add: bool,
    config: Config,
) -> tuple[Launch, ...]:
    """As the launchers' arguments and results; out (E, M, N), with E = 1 where ``ends`` is None."""
    (M, T), N = a.shape, b.shape[0]
    blocks, options = split(config)
    shape = {name: blocks[name] for name in ("BLOCK_M", "PART", "PARTS", "GROUP")}
    rows, columns = cdiv(M, shape["BLOCK_M"]), cdiv(N, shape["PART"] * shape["PARTS"])
    tiles = rows * columns * len(out)
    grid = programs(tiles, blocks["PERSISTENT"], a.device)
    if ends is not None and blocks["PERSISTENT"]:  # experts' tiles are not equally long: no round to fill
        grid = min(tiles, blocks["PERSISTENT"] * sms(a.device))
    args = {
        "a_desc": descriptor(a, (shape["BLOCK_M"], TILE)), "b_desc": descriptor(b, (shape["PART"], TILE)),
        "out_ptr": out, "a_scales_ptr": a_scales, "b_scales_ptr": b_scales, "ends_ptr": ends,
        "M": M, "N": N, "T": T, "experts": len(out),
        "a_scales_row": a_scales.stride(0), "a_scales_column": a_scales.stride(1),
        "b_scales_row": b_scales.stride(0), "b_scales_column": b_scales.stride(1),
        "out_expert": out.stride(0), "out_row": out.stride(1), **shape, "GROUPED": ends is not None, "ADD": add,
    }  # fmt: skip
    return (Launch(kernel, (grid,), args, options, l2_bytes=(columns * M + rows * N) * T),)


def fp8_gemm_wgrad(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, out: Tensor | None = None, *, config: Config | None = None
) -> Tensor:
    """a (M, T), a_scales (M, W), b (N, T), b_scales (N, W) -> (M, N) float32, as ``reference``.

    With ``out`` the gradient is added to it, and it is returned. Raises ValueError.
    """
    op = "fp8_gemm_wgrad"
    (M, T), N = check(op, a, a_scales, b, b_scales), b.shape[0]
    made = empty(op, out, a, M, N)
    if a.is_meta or not made.numel():
        return made
    if not T:
        return made if out is not None else made.zero_()
    config = config or tables.choose(op, a.device, M=M, N=N, K=T)
    run(launches(a, a_scales, b, b_scales, None, made[None], add=out is not None, config=config))
    return made


def grouped_fp8_wgrad(
    a: Tensor,
    a_scales: Tensor,
    b: Tensor,
    b_scales: Tensor,
    ends: Tensor,
    out: Tensor | None = None,
    *,
    config: Config | None = None,
) -> Tensor:
    """a (M, T), b (N, T), their scales as above, ends (E) int32 or int64 -> (E, M, N) float32, as ``reference_grouped``

    The tokens lie as this file says; T % 128 == 0. With ``out`` the gradients are added to it. Raises ValueError.
    """
    op = "grouped_fp8_wgrad"
    (M, T), N = check(op, a, a_scales, b, b_scales), b.shape[0]
    checks.tensor(op, "ends", ends, (torch.int32, torch.int64), (None,), contiguous=True, aligned=False)
    checks.device(op, NEEDS, a, ends)
    if T % TILE:
        raise ValueError(f"{op}: a has {T} tokens, expected a multiple of {TILE}: every expert's are padded to one")
    E = len(ends)
    made = empty(op, out, a, E, M, N)
    if a.is_meta or not made.numel():
        return made
    if not T:
        return made if out is not None else made.zero_()
    config = config or tables.choose(op, a.device, E=E, R=cdiv(T, E), M=M, N=N)
    run(launches(a, a_scales, b, b_scales, ends, made, add=out is not None, config=config))
    return made


def check(op: str, a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> torch.Size:
    """What both launchers ask of their operands; the shape of a. Raises ValueError."""
    checks.tensor(op, "a", a, FP8, (None, None))
    M, T = a.shape
    checks.tensor(op, "b", b, FP8, (None, T))
    checks.scales(op, "a_scales", a_scales, (M, cdiv(T, TILE)))
    checks.scales(op, "b_scales", b_scales, (b.shape[0], cdiv(T, TILE)))
    checks.device(op, NEEDS, a, a_scales, b, b_scales)
    return a.shape


def empty(op: str, out: Tensor | None, a: Tensor, *shape: int) -> Tensor:
    """``out``, checked, or a new float32 tensor. Raises ValueError."""
    if out is None:
        return torch.empty(shape, dtype=torch.float32, device=a.device)
    checks.tensor(op, "out", out, torch.float32, shape, aligned=False)
    checks.device(op, NEEDS, a, out)
    return out


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches at a table's shape on the meta device, for compilation ahead of time."""
    (M, N), E, meta = (shape["M"], shape["N"]), shape.get("E", 1), torch.device("meta")
    T = E * cdiv(shape["R"], TILE) * TILE if op == "grouped_fp8_wgrad" else shape["K"]
    a, b = (torch.empty(rows, T, dtype=FP8, device=meta) for rows in (M, N))
    a_scales, b_scales = (empty_scales(rows, cdiv(T, TILE), meta) for rows in (M, N))
    ends = torch.empty(E, dtype=torch.int32, device=meta) if op == "grouped_fp8_wgrad" else None
    # Adding takes the most registers: what compiles so does without.
    return launches(a, a_scales, b, b_scales, ends, torch.empty(E, M, N, device=meta), add=True, config=config)


# As Triton 3.6 and 3.7.1 compile them for sm_90, nothing spills. The scales of the columns take 16 registers a part and
# 64 columns, and scaling twice doubles the promotion's instructions: 128 x 192 is the largest tile (255 registers).
many = fp8_gemm.many
CONFIGS = [
    many(128, 64, 3, 8, 4),
    many(128, 64, 2, 8, 4),
    many(128, 64, 3, 8, 4, PERSISTENT=0),
    many(128, 64, 2, 8, 4, PERSISTENT=0),
    many(128, 128, 1, 8, 4),
    many(64, 64, 2, 4, 3, PERSISTENT=3),
    many(64, 64, 2, 4, 3, PERSISTENT=0),
]
SIDES = ((2112, 7168), (4096, 7168), (7168, 2048), (7168, 16384))
CANDIDATES = {"fp8_gemm_wgrad": CONFIGS, "grouped_fp8_wgrad": CONFIGS}
TABLE_SHAPES = {
    "fp8_gemm_wgrad": [{"M": M, "N": N, "K": K} for M, N in SIDES for K in (4096, 16384)],
    "grouped_fp8_wgrad": [
        {"E": E, "R": R, "M": M, "N": N} for E, R in ((8, 4096), (32, 512)) for M, N in ((4096, 7168), (7168, 2048))
    ],
}
