"""Trial of SwiGLU with quantisation (kernels/swiglu_quantize.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from v3bench.kernels import swiglu, swiglu_quantize
from v3bench.suite.trials.coded import codes_error
from v3bench.suite.trials.trial import Inputs, Rival, Shape, Trial, package


def rows(shape: Shape, device: str) -> Inputs:
    """gate_up (M, 2F) bf16, rows of different magnitude."""
    M = shape["M"]
    gate_up = torch.randn(M, 2 * shape["F"], device=device) * (torch.randn(M, 1, device=device) * 0.5).exp()
    return {"gate_up": gate_up.bfloat16()}


def oracle(gate_up: Tensor) -> Tensor:
    """The activation in float64; what it is coded to follows."""
    return swiglu.reference(gate_up.double())


def error(got: Any, want: Tensor, inputs: Inputs) -> float:
    """Codes and scales; see coded.py."""
    return codes_error(got[0], got[1], want)


def compiled(inputs: Inputs) -> Callable[[], Any]:
    """torch.compile of the plain definition."""
    function = torch.compile(swiglu_quantize.reference, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: function(**inputs)


def liger(inputs: Inputs) -> Callable[[], Any]:
    """Liger-Kernel's SiLU(gate) * up: it has no codes, and wants the halves apart."""
    function = package("liger_kernel.ops.swiglu").LigerSiLUMulFunction
    gate, up = (half.contiguous() for half in inputs["gate_up"].chunk(2, dim=-1))
    return lambda: function.apply(gate, up)


TRIALS = {
    "swiglu_quantize": Trial(
        op="swiglu_quantize",
        calling="f(gate_up): gate_up (M, 2F) bfloat16, the gate half first -> codes (M, F) float8_e4m3fn, "
        "scales (M, ceil(F/128)) float32 of the float32 SiLU(gate) up",
        inputs=rows,
        ours=swiglu_quantize.swiglu_quantize,
        oracle=oracle,
        error=error,
        rivals={
            "compiled": Rival(compiled, "torch.compile of the definition", error),
            "liger": Rival(liger, "SwiGLU only, bfloat16 out, halves apart: 6 bytes an element instead of 5"),
        },
        small=({"M": 5, "F": 256}, {"M": 3, "F": 200}, {"M": 1, "F": 64}),
        small_config={"ROWS": 2, "num_warps": 1},
        precision="fp8",
    ),
}
