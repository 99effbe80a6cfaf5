"""Trials of RMSNorm with quantisation, and with the residual added before (kernels/norm_quantize.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from v3bench.kernels import norm, norm_quantize, quantize
from v3bench.suite.trials.coded import codes_error
from v3bench.suite.trials.trial import Inputs, Rival, Shape, Trial, package

EPS = 1e-6  # DeepSeek-V3's rms_norm_eps


def rows(shape: Shape, device: str) -> Inputs:
    """x (M, D) bf16, rows of different magnitude, and a weight around 1."""
    M, D = shape["M"], shape["D"]
    x = torch.randn(M, D, device=device) * torch.randn(M, 1, device=device).exp()
    weight = 1 + 0.1 * torch.randn(D, device=device)
    return {"x": x.bfloat16(), "weight": weight.bfloat16(), "eps": EPS}


def rows_and_residual(shape: Shape, device: str) -> Inputs:
    """The same with a residual (M, D)."""
    given = rows(shape, device)
    residual = torch.randn(shape["M"], shape["D"], device=device).bfloat16()
    return {"x": given["x"], "residual": residual, "weight": given["weight"], "eps": EPS}


def oracle(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The normalised rows in float64; what they are coded to follows."""
    return norm.reference(x.double(), weight.double(), eps)


def oracle_add(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(normalised rows in float64, the sum): two bfloat16 are added exactly enough in float32 to round them once."""
    total = (x.float() + residual.float()).to(residual.dtype)
    return oracle(total, weight, eps), total


def error(got: Any, want: Tensor, inputs: Inputs) -> float:
    """Codes and scales; see coded.py."""
    return codes_error(got[0], got[1], want)


def error_add(got: Any, want: tuple[Tensor, Tensor], inputs: Inputs) -> float:
    """The sum is fixed to the bit; codes and scales as ``error``."""
    return codes_error(got[0], got[1], want[0]) if torch.equal(got[2], want[1]) else float("inf")


def compiled(reference: Callable[..., Any]) -> Callable[[Inputs], Callable[[], Any]]:
    """torch.compile of the plain definition, the fusion anyone gets for nothing."""

    def build(inputs: Inputs) -> Callable[[], Any]:
        function = torch.compile(reference, mode="max-autotune-no-cudagraphs", dynamic=False)
        return lambda: function(**inputs)

    return build


def two_calls(inputs: Inputs) -> Callable[[], Any]:
    """torch's fused RMSNorm, and our quantiser on its result: what fusing them saves."""

    def call() -> Any:
        x, weight = inputs["x"], inputs["weight"]
        return quantize.quantize_tiles(torch.nn.functional.rms_norm(x, weight.shape, weight, inputs["eps"]))

    return call


def liger(inputs: Inputs) -> Callable[[], Any]:
    """Liger-Kernel's RMSNorm: it has no codes, so that the write of bfloat16 stands in for theirs."""
    function = package("liger_kernel.ops.rms_norm").LigerRMSNormFunction
    return lambda: function.apply(inputs["x"], inputs["weight"], inputs["eps"], 0.0, "llama", False)


CODED = "-> codes (M, D) float8_e4m3fn, scales (M, ceil(D/128)) float32"
SMALL = ({"M": 3, "D": 256}, {"M": 2, "D": 300}, {"M": 1, "D": 72})
TRIALS = {
    "rms_norm_quantize": Trial(
        op="rms_norm_quantize",
        calling=f"f(x, weight, eps): x (M, D) and weight (D) bfloat16 {CODED} of the float32 normalised rows",
        inputs=rows,
        ours=norm_quantize.rms_norm_quantize,
        oracle=oracle,
        error=error,
        rivals={
            "compiled": Rival(compiled(norm_quantize.reference), "torch.compile of the definition", error),
            "two_calls": Rival(two_calls, "F.rms_norm, then our quantiser: rounds to bfloat16 in between"),
            "liger": Rival(liger, "RMSNorm only, bfloat16 out: 4 bytes an element instead of 3"),
        },
        small=SMALL,
        small_config={"num_warps": 4},
        precision="fp8",
    ),
    "add_rms_norm_quantize": Trial(
        op="add_rms_norm_quantize",
        calling=f"f(x, residual, weight, eps): x, residual (M, D) and weight (D) bfloat16 {CODED} of the normalised "
        "sum, and x + residual (M, D) bfloat16",
        inputs=rows_and_residual,
        ours=norm_quantize.add_rms_norm_quantize,
        oracle=oracle_add,
        error=error_add,
        rivals={"compiled": Rival(compiled(norm_quantize.reference_add), "torch.compile of the definition", error_add)},
        small=SMALL,
        small_config={"num_warps": 4},
        precision="fp8",
    ),
}
