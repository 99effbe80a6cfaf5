"""Trials of the quantisers and their inverses (kernels/quantize.py, dequantize.py)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from v3bench.kernels import block_quant, dequantize, quantize
from v3bench.suite.trials.trial import Inputs, Rival, Shape, Trial


def exact(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], inputs: Inputs) -> float:
    """0 where codes and scales equal the definition's (NaN where it has NaN), else inf: the arithmetic is fixed."""
    equal = all(
        torch.equal(a.float().nan_to_num(1e9), b.float().nan_to_num(1e9)) for a, b in zip(got, want, strict=True)
    )
    return 0.0 if equal else float("inf")


def exact_values(got: Tensor, want: Tensor, inputs: Inputs) -> float:
    """0 where equal, else inf."""
    return 0.0 if torch.equal(got.float().nan_to_num(1e9), want.float().nan_to_num(1e9)) else float("inf")


def rows(shape: Shape, device: str) -> Inputs:
    """x (M, K) bf16, rows of different magnitude."""
    x = torch.randn(shape["M"], shape["K"], device=device) * torch.randn(shape["M"], 1, device=device).exp()
    return {"x": x.bfloat16()}


def codes(shape: Shape, device: str) -> Inputs:
    """What ``rows`` is quantised to."""
    made, scales = quantize.reference_tiles(**rows(shape, device))
    return {"codes": made, "scales": scales}


def weight(shape: Shape, device: str) -> Inputs:
    """w (N, K) bf16."""
    return {"w": torch.randn(shape["N"], shape["K"], device=device).bfloat16() * 0.02}


def weight_codes(shape: Shape, device: str) -> Inputs:
    """What ``weight`` is quantised to."""
    codes, scale_inv = quantize.reference_blocks(**weight(shape, device))
    return {"codes": codes, "scale_inv": scale_inv}


def weight_back(codes: Tensor, scale_inv: Tensor) -> Tensor:
    """The definition at bfloat16, as one expression: it goes block by block, which no compiler fuses."""
    rows, columns = codes.shape
    scales = scale_inv.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    return (codes.float() * scales).bfloat16()


def compiled(reference: Callable[..., Any]) -> Callable[[Inputs], Callable[[], Any]]:
    """torch.compile of the plain definition, the fusion anyone gets for nothing."""

    def build(inputs: Inputs) -> Callable[[], Any]:
        function = torch.compile(reference, mode="max-autotune-no-cudagraphs", dynamic=False)
        return lambda: function(**inputs)

    return build


def dequantized(codes: Tensor, scales: Tensor) -> Tensor:
    """The definition at bfloat16."""
    return dequantize.reference_tiles(codes, scales)


SMALL = ({"M": 5, "K": 300}, {"M": 33, "K": 512}, {"M": 1, "K": 64})
TRIALS = {
    "quantize_tiles": Trial(
        op="quantize_tiles",
        calling="f(x): x (M, K) bfloat16 -> codes (M, K) float8_e4m3fn, scales (M, ceil(K/128)) float32",
        inputs=rows,
        ours=quantize.quantize_tiles,
        oracle=quantize.reference_tiles,
        error=exact,
        rivals={"compiled": Rival(compiled(quantize.reference_tiles), "torch.compile of the definition")},
        small=SMALL,
        small_config={"ROWS": 4, "num_warps": 4},
        precision="fp8",
    ),
    "dequantize_tiles": Trial(
        op="dequantize_tiles",
        calling="f(codes, scales): codes (M, K) float8_e4m3fn, scales (M, ceil(K/128)) float32 -> (M, K) bfloat16",
        inputs=codes,
        ours=dequantize.dequantize_tiles,
        oracle=dequantized,
        error=exact_values,
        rivals={"compiled": Rival(compiled(dequantized), "torch.compile of the definition")},
        small=SMALL,
        small_config={"ROWS": 4, "num_warps": 4},
        precision="fp8",
    ),
    "quantize_blocks": Trial(
        op="quantize_blocks",
        calling="f(w): w (N, K) bfloat16 -> codes (N, K) float8_e4m3fn, scales (ceil(N/128), ceil(K/128)) float32",
        inputs=weight,
        ours=quantize.quantize_blocks,
        oracle=quantize.reference_blocks,
        error=exact,
        rivals={"compiled": Rival(compiled(quantize.reference_blocks), "torch.compile of the definition")},
        small=({"N": 130, "K": 300}, {"N": 7, "K": 128}),
        small_config={"num_warps": 4},
        precision="fp8",
    ),
    "dequantize_blocks": Trial(
        op="dequantize_blocks",
        calling="f(codes, scale_inv): codes (N, K) float8_e4m3fn, scale_inv (ceil(N/128), ceil(K/128)) float32 -> bf16",
        inputs=weight_codes,
        ours=dequantize.dequantize_blocks,
        oracle=partial(block_quant.reference, dtype=torch.bfloat16),
        error=exact_values,
        rivals={"compiled": Rival(compiled(weight_back), "torch.compile of the definition as one expression")},
        small=({"N": 130, "K": 300}, {"N": 7, "K": 128}),
        small_config={"ROWS": 4, "num_warps": 4},
        precision="fp8",
    ),
}
