"""Trials of the FP8 weight gradients (kernels/fp8_gemm_wgrad.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.kernels import dequantize, fp8_gemm_wgrad, quantize
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.trial import Inputs, Missing, Rival, Shape, Trial, package

Call = Callable[[], Any]
TILE = quantize.TILE


def side(rows: int, tokens: int, device: str, ends: list[int] | None = None, padding: int = 0) -> tuple[Tensor, Tensor]:
    """Codes (rows, tokens) and scales, stored by column; the last ``padding`` tokens before every end are zero."""
    x = torch.randn(rows, tokens, device=device) * torch.randn(rows, 1, device=device).exp()
    for end in ends or ():
        x[:, max(end - padding, 0) : end] = 0
    codes, scales = quantize.reference_tiles(x, clamp=quantize.GUARD)
    return codes, quantize.empty_scales(rows, scales.shape[1], x.device).copy_(scales)


def operands(shape: Shape, device: str) -> Inputs:
    """Gradient and activation, tokens along the rows, quantised along the tokens."""
    (a, a_scales), (b, b_scales) = (side(shape[rows], shape["K"], device) for rows in "MN")
    return {"a": a, "a_scales": a_scales, "b": b, "b_scales": b_scales}


def grouped_operands(shape: Shape, device: str) -> Inputs:
    """E experts of R tokens each on average, an uneven share of whole tiles; the first of several experts has none."""
    E, R = shape["E"], -(-shape["R"] // TILE) * TILE
    T = E * R
    cuts = torch.randint(0, T // TILE + 1, (max(E - 2, 0),)).sort().values * TILE
    ends = [0, *cuts.tolist(), T][-E:]
    (a, a_scales), (b, b_scales) = (side(shape[rows], T, device, ends, padding=TILE // 4) for rows in "MN")
    at = torch.tensor(ends, dtype=torch.int32, device=device)
    return {"a": a, "a_scales": a_scales, "b": b, "b_scales": b_scales, "ends": at}


def oracle(**inputs: Any) -> Tensor:
    """The definition in float64."""
    return fp8_gemm_wgrad.reference(**inputs, compute=torch.float64)


def grouped_oracle(**inputs: Any) -> Tensor:
    """The definition in float64."""
    return fp8_gemm_wgrad.reference_grouped(**inputs, compute=torch.float64)


def error(got: Tensor, want: Tensor, inputs: Inputs) -> float:
    """Worst row over 2^-10, one rounding to float16.

    A sum of 128 products passes through four instructions, each of which truncates to 13 fraction bits of the largest
    summand: up to 4 x 2^-13 of it. One token of 16384 left out is 2^-7.
    """
    return rounding_error(got, want, torch.float16)


def wide(inputs: Inputs, name: str) -> Tensor:
    """One operand in bfloat16."""
    return dequantize.reference_tiles(inputs[name], inputs[f"{name}_scales"], torch.bfloat16)


def block_scaled(inputs: Inputs) -> Call:
    """cuBLASLt with 1x128 scales on both sides, float32 out; scales (M, W) with strides (1, M)."""
    a_scales, b_scales = (inputs[name].T.contiguous().T for name in ("a_scales", "b_scales"))
    kind = F.ScalingType.BlockWise1x128
    a, b = inputs["a"], inputs["b"]
    return lambda: F.scaled_mm(a, b.T, a_scales, kind, b_scales, kind, output_dtype=torch.float32)


def bfloat16(inputs: Inputs) -> Call:
    """torch.mm on the dequantised operands."""
    a, b = wide(inputs, "a"), wide(inputs, "b")
    return lambda: torch.mm(a, b.T, out_dtype=torch.float32)


def compiled(inputs: Inputs) -> Call:
    """torch.compile of dequantising and multiplying in bfloat16."""

    def dequantise_and_multiply(**inputs: Tensor) -> Tensor:
        return torch.mm(wide(inputs, "a"), wide(inputs, "b").T, out_dtype=torch.float32)

    function = torch.compile(dequantise_and_multiply, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: function(**inputs)


def grouped_bfloat16(inputs: Inputs) -> Call:
    """torch's grouped GEMM over groups of tokens."""
    a, b, ends = wide(inputs, "a"), wide(inputs, "b"), inputs["ends"]
    return lambda: F.grouped_mm(a, b.T, offs=ends)


def deep_gemm(inputs: Inputs) -> Call:
    """DeepGEMM's first interface adds to a float32 result."""
    library = package("deep_gemm")
    function = getattr(library, "wgrad_gemm_fp8_fp8_fp32_nt", None)
    if function is None:
        raise Missing("deep_gemm has no wgrad_gemm_fp8_fp8_fp32_nt: its second interface has no such product on Hopper")
    a, b = (inputs["a"], inputs["a_scales"]), (inputs["b"], inputs["b_scales"])
    out = torch.zeros(len(a[0]), len(b[0]), device=a[0].device)

    def call() -> Tensor:
        function(a, b, out.zero_())
        return out

    return call


CALLING = (
    "a (M, T) float8_e4m3fn, a_scales (M, ceil(T/128)) float32 by column, b (N, T), b_scales (N, ceil(T/128)) alike"
)
CONFIG = fp8_gemm_wgrad.many(32, 32, 2, 4, 3)
TRIALS = {
    "fp8_gemm_wgrad": Trial(
        op="fp8_gemm_wgrad",
        calling=f"f(a, a_scales, b, b_scales): {CALLING} -> a b' (M, N) float32",
        inputs=operands,
        ours=fp8_gemm_wgrad.fp8_gemm_wgrad,
        oracle=oracle,
        error=error,
        rivals={
            "cublaslt-block": Rival(block_scaled, "torch's scaled_mm, 1x128 scales on both sides", error),
            "bf16": Rival(bfloat16, "torch.mm on operands rounded to bfloat16: twice the bytes"),
            "compiled": Rival(compiled, "torch.compile of dequantising and multiplying in bfloat16"),
            "deepgemm": Rival(deep_gemm, "DeepGEMM, where it is installed; zeroes its result first", error),
        },
        small=(
            {"M": 40, "N": 70, "K": 272},  # sides that end in a ragged tile, tokens that end in one
            {"M": 3, "N": 130, "K": 128},
            {"M": 33, "N": 1, "K": 16},
        ),
        small_config=CONFIG,
        precision="fp8",
    ),
    "grouped_fp8_wgrad": Trial(
        op="grouped_fp8_wgrad",
        calling=f"f(a, a_scales, b, b_scales, ends): {CALLING}; T is every expert's tokens padded to a multiple of 128 "
        "with zero codes, ends (E) int32 where they end -> (E, M, N) float32, zeros for an expert without tokens",
        inputs=grouped_operands,
        ours=fp8_gemm_wgrad.grouped_fp8_wgrad,
        oracle=grouped_oracle,
        error=error,
        rivals={
            "bf16": Rival(grouped_bfloat16, "torch's grouped GEMM on bfloat16, bfloat16 out: twice the bytes in"),
        },
        small=({"E": 3, "R": 128, "M": 40, "N": 70}, {"E": 1, "R": 200, "M": 5, "N": 33}),
        small_config=CONFIG,
        precision="fp8",
    ),
}
