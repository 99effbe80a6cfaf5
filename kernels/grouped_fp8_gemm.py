"""Grouped FP8 matrix product, contiguous: rows of all experts one after another, each expert's times its weights.

    reference          the definition
    grouped_fp8_gemm   launcher; the kernel is grouped_tiles.py's

Scales and promotion as fp8_gemm's (V3 report, section 3.3.2). Each expert has any number of rows, also none. A layout
that pads each expert's rows to some multiple is given by the ends of the padded groups.

T rows of all experts  E experts  N outputs  K columns  W = ceil(K/128) tiles
"""

from __future__ import annotations

import torch
from torch import Tensor
from v3bench.kernels import checks, tables
from v3bench.kernels.grouped_tiles import FEW, MANY, fits, launch
from v3bench.kernels.launch import Config, Launch, cdiv, run
from v3bench.kernels.quantize import FP8, TILE, empty_scales

NEEDS = checks.HOPPER
OUT = (torch.bfloat16, torch.float32)
MOST_EXPERTS = 4096  # their offsets lie in the registers of every program


def reference(
    x: Tensor,
    x_scales: Tensor,
    w: Tensor,
    w_scales: Tensor,
    offsets: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    compute: torch.dtype = torch.float32,
) -> Tensor:
    """x (T, K), x_scales (T, W), w (E, N, K), w_scales (E, ceil(N/128), W), offsets int32 (E): the end of each expert's
    rows -> (T, N), multiplied in ``compute``; zero in rows after the last expert's."""
    out = torch.zeros(x.shape[0], w.shape[1], dtype=compute, device=x.device)
    activations, start = spread_tiles(x, x_scales, compute), 0
    for e, end in enumerate(offsets.tolist()):
        out[start:end] = activations[start:end] @ spread_blocks(w[e], w_scales[e], compute).T
        start = end
    return out.to(out_dtype)


def spread_tiles(x: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Codes (.., K) times scales (.., W)."""
    return x.to(dtype) * scales.to(dtype).repeat_interleave(TILE, -1)[..., : x.shape[-1]]


def spread_blocks(w: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Codes (N, K) times scales (ceil(N/128), W)."""
    return spread_tiles(w, scales.repeat_interleave(TILE, 0)[: len(w)], dtype)


def launches(
    x: Tensor, x_scales: Tensor, w: Tensor, w_scales: Tensor, offsets: Tensor, out: Tensor, *, config: Config
) -> tuple[Launch, ...]:
    """As the launcher's arguments and result."""
    return (launch(x, x_scales, w, w_scales, offsets, out, config=config),)


def grouped_fp8_gemm(
    x: Tensor,
    x_scales: Tensor,
    w: Tensor,
    w_scales: Tensor,
    offsets: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    *,
    config: Config | None = None,
) -> Tensor:
    """x (T, K), x_scales (T, W), w (E, N, K), w_scales (E, ceil(N/128), W), offsets (E) -> (T, N), as ``reference``.

    Offsets that decrease or leave 0..T make the product NaN, as to refuse them would mean to wait for the GPU; rows
    after the last are left as torch.empty made them. x_scales may have any strides, and are read fastest as
    quantize_tiles makes them. Raises ValueError.
    """
    op = "grouped_fp8_gemm"
    checks.tensor(op, "x", x, FP8, (None, None))
    (T, K), E = x.shape, check(op, x, x_scales, w, w_scales, "offsets", offsets, out_dtype)
    out = torch.empty(T, w.shape[1], dtype=out_dtype, device=x.device)
    if x.is_meta or not out.numel():
        return out
    if not E or not K:
        return out.zero_()
    config = config or tables.choose(op, x.device, E=E, R=cdiv(T, E), N=w.shape[1], K=K)
    run(launches(x, x_scales, w, w_scales, offsets, out, config=config))
    return out


def check(
    op: str,
    x: Tensor,
    x_scales: Tensor,
    w: Tensor,
    w_scales: Tensor,
    name: str,
    ends: Tensor,
    out_dtype: torch.dtype,
) -> int:
    """What both grouped products ask of their input, x (.., K) being sound already. -> E. Raises ValueError."""
    checks.tensor(op, "w", w, FP8, (None, None, x.shape[-1]), contiguous=True)
    (E, N, K), rows = w.shape, x.shape[:-1].numel()
    checks.scales(op, "x_scales", x_scales, (*x.shape[:-1], cdiv(K, TILE)))
    checks.scales(op, "w_scales", w_scales, (E, cdiv(N, TILE), cdiv(K, TILE)))
    checks.tensor(op, "w_scales", w_scales, torch.float32, w_scales.shape, aligned=False)
    checks.tensor(op, name, ends, torch.int32, (E,), contiguous=True, aligned=False)
    checks.device(op, NEEDS, x, x_scales, w, w_scales, ends)
    checks.result(op, out_dtype, OUT)
    if max(rows, E * N) * cdiv(N, TILE) > checks.MOST or E > MOST_EXPERTS:
        raise ValueError(
            f"{op}: {rows} rows and {E} experts of {N} outputs are more than tiles can be counted in int32"
        )
    return E


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches at a table's shape on the meta device, for compilation ahead of time.

    Raises ValueError for a configuration that is no match for the shape.
    """
    E, R, N, K = (shape[name] for name in "ERNK")
    fits(R, config)
    meta, W = torch.device("meta"), cdiv(K, TILE)
    x, w = (torch.empty(size, dtype=FP8, device=meta) for size in ((E * R, K), (E, N, K)))
    out = torch.empty(E * R, N, dtype=torch.bfloat16, device=meta)
    w_scales, offsets = torch.empty(E, cdiv(N, TILE), W, device=meta), torch.empty(E, dtype=torch.int32, device=meta)
    return launches(x, empty_scales(E * R, W, meta), w, w_scales, offsets, out, config=config)


CANDIDATES = {"grouped_fp8_gemm": [*MANY, *FEW]}
TABLE_SHAPES = {
    "grouped_fp8_gemm": [
        {"E": E, "R": R, "N": N, "K": K}
        for E, R in ((8, 4096), (4, 8192), (256, 8), (256, 64), (256, 512))
        for N, K in ((4096, 7168), (7168, 2048))
    ]
}
