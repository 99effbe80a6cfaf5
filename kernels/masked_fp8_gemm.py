"""Grouped FP8 matrix product, masked: room for as many rows of each expert, of which a count on the device is valid.

    reference         the definition
    masked_fp8_gemm   launcher; the kernel is grouped_tiles.py's

The layout of decoding with expert parallelism, where the host does not know how many tokens arrive. With few rows an
expert the product is bound by reading every weight once.

E experts  R rows there is room for  N outputs  K columns  W = ceil(K/128) tiles
"""

from __future__ import annotations

import torch
from torch import Tensor
from v3bench.kernels import checks, tables
from v3bench.kernels.grouped_fp8_gemm import check, spread_blocks, spread_tiles
from v3bench.kernels.grouped_tiles import FEW, MANY, fits, launch
from v3bench.kernels.launch import Config, Launch, cdiv, run
from v3bench.kernels.quantize import FP8, TILE, empty_scales

OP = "masked_fp8_gemm"


def reference(
    x: Tensor,
    x_scales: Tensor,
    w: Tensor,
    w_scales: Tensor,
    masked_m: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    compute: torch.dtype = torch.float32,
) -> Tensor:
    """x (E, R, K), x_scales (E, R, W), w (E, N, K), w_scales (E, ceil(N/128), W), masked_m int32 (E): how many rows of
    each expert are valid -> (E, R, N), multiplied in ``compute``; zero in the others."""
    out = torch.zeros(*x.shape[:2], w.shape[1], dtype=compute, device=x.device)
    for e, rows in enumerate(masked_m.tolist()):
        activations = spread_tiles(x[e, :rows], x_scales[e, :rows], compute)
        out[e, :rows] = activations @ spread_blocks(w[e], w_scales[e], compute).T
    return out.to(out_dtype)


def launches(
    x: Tensor, x_scales: Tensor, w: Tensor, w_scales: Tensor, masked_m: Tensor, out: Tensor, *, config: Config
) -> tuple[Launch, ...]:
    """As the launcher's arguments and result."""
    return (launch(x, x_scales, w, w_scales, masked_m, out, config=config),)


def masked_fp8_gemm(
    x: Tensor,
    x_scales: Tensor,
    w: Tensor,
    w_scales: Tensor,
    masked_m: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    *,
    expected_m: int | None = None,
    out: Tensor | None = None,
    config: Config | None = None,
) -> Tensor:
    """x (E, R, K), x_scales (E, R, W), w (E, N, K), w_scales (E, ceil(N/128), W), masked_m (E) -> (E, R, N), as
    ``reference`` in the valid rows; the others of ``out`` (made where it is not given) are not touched.

    ``expected_m``: how many rows of an expert are likely valid, which chooses the configuration; R where not given.
    Raises ValueError.
    """
    checks.tensor(OP, "x", x, FP8, (None, None, None), contiguous=True)
    (_, R, K), E = x.shape, check(OP, x, x_scales, w, w_scales, "masked_m", masked_m, out_dtype)
    N = w.shape[1]
    if len(x) != E:
        raise ValueError(f"{OP}: x has rows of {len(x)} experts, expected {E}, as w")
    if out is None:
        out = torch.empty(E, R, N, dtype=out_dtype, device=x.device)
    checks.tensor(OP, "out", out, out_dtype, (E, R, N), contiguous=True, aligned=False)
    checks.device(OP, checks.HOPPER, x, out)
    if x.is_meta or not out.numel():
        return out
    if not K:
        raise ValueError(f"{OP}: x has shape {tuple(x.shape)}, expected at least one column")
    config = config or tables.choose(OP, x.device, E=E, R=R if expected_m is None else expected_m, N=N, K=K)
    run(launches(x, x_scales, w, w_scales, masked_m, out, config=config))
    return out


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches at a table's shape on the meta device, for compilation ahead of time.

    Raises ValueError for a configuration that is no match for the shape.
    """
    E, R, N, K = (shape[name] for name in "ERNK")
    fits(R, config)
    meta, W = torch.device("meta"), cdiv(K, TILE)
    x, w = (torch.empty(size, dtype=FP8, device=meta) for size in ((E, R, K), (E, N, K)))
    out = torch.empty(E, R, N, dtype=torch.bfloat16, device=meta)
    w_scales, masked_m = torch.empty(E, cdiv(N, TILE), W, device=meta), torch.empty(E, dtype=torch.int32, device=meta)
    return launches(x, stacked(empty_scales(E * R, W, meta), E), w, w_scales, masked_m, out, config=config)


def stacked(scales: Tensor, E: int) -> Tensor:
    """Scales of all rows (E R, W), as quantize_tiles stores them, as (E, R, W) without a copy."""
    return scales.view(E, -1, scales.shape[1])


CANDIDATES = {OP: [*MANY, *FEW]}
TABLE_SHAPES = {
    OP: [
        {"E": E, "R": R, "N": N, "K": K}
        for E, R in ((1, 1024), (2, 512), (4, 256), (8, 128), (8, 32), (16, 64), (32, 4), (32, 20))
        for N, K in ((4096, 7168), (7168, 2048))
    ]
}
