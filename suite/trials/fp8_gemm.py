"""The trial of the block-scaled FP8 GEMM (kernels/fp8_gemm.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.kernels import dequantize, fp8_gemm, quantize
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.trial import Inputs, Missing, Rival, Shape, Trial, package

Call = Callable[[], Any]
TILE = quantize.TILE


def operands(shape: Shape, device: str) -> Inputs:
    """Tokens of different magnitude and weights of usual size, quantised; the tokens' scales stored by column."""
    M, N, K = shape["M"], shape["N"], shape["K"]
    x = torch.randn(M, K, device=device) * torch.randn(M, 1, device=device).exp()
    a, a_scales = quantize.reference_tiles(x)
    b, b_scales = quantize.reference_blocks(torch.randn(N, K, device=device) * 0.02)
    by_column = quantize.empty_scales(M, a_scales.shape[1], a.device).copy_(a_scales)
    return {"a": a, "a_scales": by_column, "b": b, "b_scales": b_scales}


def oracle(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> Tensor:
    """The definition in float64."""
    return fp8_gemm.reference(a, a_scales, b, b_scales, torch.float64, torch.float64)


def error(got: Tensor, want: Tensor, inputs: Inputs) -> float:
    """Worst row over one rounding to bfloat16, 2^-7.

    The result's own rounding takes 0.2 to 0.3 of it; sums of 128 products with the tensor cores' 13 fraction bits take
    about 2^-12, 0.03. A scale of a neighbouring tile, or one tile of 128 left out, takes more than 10.
    """
    return rounding_error(got, want, torch.bfloat16)


def wide(inputs: Inputs, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    """Both operands dequantised: tokens (M, K), weights (N, K)."""
    (N, K), scales = inputs["b"].shape, inputs["b_scales"]
    x = dequantize.reference_tiles(inputs["a"], inputs["a_scales"], dtype)
    spread = scales.repeat_interleave(TILE, 0)[:N].repeat_interleave(TILE, 1)[:, :K]
    return x, (inputs["b"].float() * spread).to(dtype)


def block_scaled(inputs: Inputs) -> Call:
    """cuBLASLt's own block-scaled product. It wants M % 4 == 0, and W of the weights' scales padded to 4."""
    a, b, M = inputs["a"], inputs["b"], len(inputs["a"])
    padded = F.pad(a.view(torch.uint8), (0, 0, 0, -M % 4)).view(a.dtype)
    a_scales = F.pad(inputs["a_scales"], (0, 0, 0, -M % 4)).T.contiguous().T  # (M, W), strides (1, M)
    b_scales = F.pad(inputs["b_scales"], (0, -inputs["b_scales"].shape[1] % 4)).contiguous().T  # (W padded to 4, N/128)
    kinds = F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128

    def call() -> Tensor:
        return F.scaled_mm(padded, b.T, a_scales, kinds[0], b_scales, kinds[1], output_dtype=torch.bfloat16)[:M]

    return call


def compiled_block_scaled(inputs: Inputs) -> Call:
    """The same through Inductor, which has a Triton template for it."""
    if inputs["b"].shape[0] % TILE or inputs["b"].shape[1] % TILE:
        raise Missing("Inductor's shape rule for block scales knows whole blocks only")
    call = torch.compile(block_scaled(inputs), mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: call()


def row_scaled(fast: bool) -> Callable[[Inputs], Call]:
    """One scale per row on both sides: the operands quantised anew."""

    def build(inputs: Inputs) -> Call:
        (a, a_scale), (b, b_scale) = (by_row(side) for side in wide(inputs, torch.float32))
        kind = F.ScalingType.RowWise

        def call() -> Tensor:
            return F.scaled_mm(a, b.T, a_scale, kind, b_scale.T, kind, output_dtype=torch.bfloat16, use_fast_accum=fast)

        return call

    return build


def by_row(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, K) -> codes e4m3, scales (M, 1)."""
    scale = x.abs().amax(1, keepdim=True).clamp(min=quantize.ACTIVATION) / quantize.FP8_MAX
    return (x / scale).clamp(-quantize.FP8_MAX, quantize.FP8_MAX).to(quantize.FP8), scale


def bfloat16(inputs: Inputs) -> Call:
    """torch.mm on the dequantised operands."""
    x, w = wide(inputs)
    return lambda: torch.mm(x, w.T)


def compiled(inputs: Inputs) -> Call:
    """torch.compile of dequantising and multiplying in bfloat16."""

    def dequantise_and_multiply(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> Tensor:
        return fp8_gemm.reference(a, a_scales, b, b_scales, torch.bfloat16, torch.bfloat16)

    function = torch.compile(dequantise_and_multiply, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: function(**inputs)


def deep_gemm(inputs: Inputs) -> Call:
    """DeepGEMM's kernel, of its first or second interface."""
    library = package("deep_gemm")
    # Its scales are float32 on Hopper, the tokens' stored by column with rows padded to 4: ours are.
    a, b = (inputs["a"], inputs["a_scales"]), (inputs["b"], inputs["b_scales"])
    out = torch.empty(len(a[0]), len(b[0]), dtype=torch.bfloat16, device=a[0].device)
    function = getattr(library, "fp8_gemm_nt", None) or getattr(library, "gemm_fp8_fp8_bf16_nt", None)
    if function is None:
        raise Missing("deep_gemm has neither fp8_gemm_nt nor gemm_fp8_fp8_bf16_nt")

    def call() -> Tensor:
        function(a, b, out)
        return out

    return call


SMALL = (
    {"M": 5, "N": 200, "K": 272},  # fewer tokens than any tile; N and K end in a ragged block
    {"M": 70, "N": 64, "K": 400},
    {"M": 1, "N": 130, "K": 16},
)
TRIALS = {
    "fp8_gemm": Trial(
        op="fp8_gemm",
        calling="f(a, a_scales, b, b_scales): a (M, K) float8_e4m3fn, a_scales (M, ceil(K/128)) float32 by "
        "column, b (N, K) float8_e4m3fn, b_scales (ceil(N/128), ceil(K/128)) float32 -> a b' (M, N) bfloat16",
        inputs=operands,
        ours=fp8_gemm.fp8_gemm,
        oracle=oracle,
        error=error,
        rivals={
            "cublaslt-block": Rival(block_scaled, "torch's scaled_mm, 1x128 and 128x128 scales", error),
            "inductor-block": Rival(compiled_block_scaled, "torch.compile of scaled_mm, max-autotune", error),
            "row-wise": Rival(row_scaled(False), "scaled_mm with one scale per row: coarser scales"),
            "row-wise-fast": Rival(row_scaled(True), "one scale per row, sums kept in the tensor cores"),
            "bf16": Rival(bfloat16, "torch.mm on bfloat16 operands: twice the bytes", error),
            "compiled": Rival(compiled, "torch.compile of dequantising and multiplying in bfloat16", error),
            "deepgemm": Rival(deep_gemm, "DeepGEMM, where it is installed", error),
        },
        small=SMALL,
        small_config=fp8_gemm.few(64, 16, 4, 3, 2),
        precision="fp8",
    ),
}
