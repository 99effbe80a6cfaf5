"""Trials of what a layer runs as one: a product with its quantisation, the masked experts' whole network.

Their kernels have trials and launch tables of their own; here counts the time from bfloat16 or dispatched rows to the
result, as libraries publish it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.kernels import (
    block_quant,
    fp8_experts,
    fp8_gemm,
    fp8_linear,
    grouped_fp8_gemm,
    masked_fp8_gemm,
    quantize,
    swiglu,
)
from v3bench.kernels.launch import Config
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials import fp8_gemm as gemm
from v3bench.suite.trials import masked_fp8_gemm as masked
from v3bench.suite.trials.grouped_fp8_gemm import Call, rows_of_all, weights
from v3bench.suite.trials.trial import Inputs, Rival, Shape, Trial


def tokens(shape: Shape, device: str) -> Inputs:
    """x (M, K) bf16, rows of different magnitude; a weight (N, K) of usual size, quantised."""
    M, N, K = (shape[name] for name in "MNK")
    x = torch.randn(M, K, device=device) * torch.randn(M, 1, device=device).exp()
    w, w_scales = quantize.reference_blocks(torch.randn(N, K, device=device) * 0.02)
    return {"x": x.bfloat16(), "w": w, "w_scales": w_scales}


def linear(x: Tensor, w: Tensor, w_scales: Tensor, *, config: Mapping[str, Config] | None = None) -> Tensor:
    """fp8_linear's forward pass over a weight that is quantised already; ``config`` by operation."""
    return fp8_linear.product(x, (w, w_scales), None, config or {})


def linear_oracle(x: Tensor, w: Tensor, w_scales: Tensor) -> Tensor:
    """The product in float64 of the definition's codes: which they are is fixed to the bit."""
    return fp8_gemm.reference(*quantize.reference_tiles(x), w, w_scales, torch.float64, torch.float64)


def linear_cublaslt(inputs: Inputs) -> Call:
    """The quantiser compiled by torch, then cuBLASLt's block-scaled product."""
    codes = torch.compile(quantize.reference_tiles, mode="max-autotune-no-cudagraphs", dynamic=False)
    x = F.pad(inputs["x"], (0, 0, 0, -len(inputs["x"]) % 4))
    b, M = inputs["w"], len(inputs["x"])
    b_scales = F.pad(inputs["w_scales"], (0, -inputs["w_scales"].shape[1] % 4)).contiguous().T
    kinds = F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128

    def call() -> Tensor:
        a, scales = codes(x)
        by_column = scales.T.contiguous().T  # (M, W), strides (1, M)
        return F.scaled_mm(a, b.T, by_column, kinds[0], b_scales, kinds[1], output_dtype=torch.bfloat16)[:M]

    return call


def linear_bf16(inputs: Inputs) -> Call:
    """torch.mm on bfloat16, nothing quantised at run time."""
    w = block_quant.dequantize(inputs["w"], inputs["w_scales"], torch.bfloat16)
    return lambda: torch.mm(inputs["x"], w.T)


def dispatched(shape: Shape, device: str) -> Inputs:
    """R valid rows for each expert in room for more, quantised; both matrices of every expert."""
    E, R, D, width = (shape[name] for name in "ERDF")
    x, x_scales = rows_of_all(E * masked.room(R), D, device)
    gate_up, gate_up_scales = weights(E, 2 * width, D, device)
    down, down_scales = weights(E, D, width, device)
    return {
        "x": x.view(E, -1, D), "x_scales": masked_fp8_gemm.stacked(x_scales, E),
        "masked_m": torch.full((E,), R, dtype=torch.int32, device=device),
        "gate_up": gate_up, "gate_up_scales": gate_up_scales, "down": down, "down_scales": down_scales,
    }  # fmt: skip


def mlp(
    x: Tensor, x_scales: Tensor, masked_m: Tensor, gate_up: Tensor, gate_up_scales: Tensor, down: Tensor,
    down_scales: Tensor,
) -> Tensor:  # fmt: skip
    """fp8_experts.masked_mlp."""
    return fp8_experts.masked_mlp(x, x_scales, masked_m, (gate_up, gate_up_scales), (down, down_scales))


def mlp_oracle(
    x: Tensor, x_scales: Tensor, masked_m: Tensor, gate_up: Tensor, gate_up_scales: Tensor, down: Tensor,
    down_scales: Tensor,
) -> Tensor:  # fmt: skip
    """Both products in float64; between them what the network itself rounds: bfloat16, then codes."""
    wide = torch.float64, torch.float64
    h = masked_fp8_gemm.reference(x, x_scales, gate_up, gate_up_scales, masked_m, *wide).bfloat16()
    z = swiglu.reference(h.double()).flatten(0, 1)
    codes, scales = quantize.reference_tiles(z)
    stack = codes.view(len(down), -1, codes.shape[1]), scales.view(len(down), -1, scales.shape[1])
    return masked_fp8_gemm.reference(*stack, down, down_scales, masked_m, *wide)


def mlp_error(got: Any, want: Tensor, inputs: Inputs) -> float:
    """Worst valid row over what four roundings to bfloat16 explain, 2^-6.

    One is the result's. Where tensor cores leave a sum of the first product on the other side of a bfloat16, about one
    in eight, SwiGLU's value moves by 2^-8; one in fifty codes then moves by a step, 6 %: together 0.9 % of a row.
    """
    valid = torch.arange(want.shape[1], device=want.device) < inputs["masked_m"][:, None]
    return rounding_error(got[valid], want[valid], torch.bfloat16, roundings=4)


def mlp_bf16(inputs: Inputs) -> Call:
    """torch's batched products of the dequantised operands, all rows, nothing quantised between."""
    x = grouped_fp8_gemm.spread_tiles(inputs["x"], inputs["x_scales"], torch.float32).bfloat16()
    up, down = (
        torch.stack([block_quant.dequantize(*pair, torch.bfloat16) for pair in zip(w, scales, strict=True)])
        for w, scales in ((inputs["gate_up"], inputs["gate_up_scales"]), (inputs["down"], inputs["down_scales"]))
    )
    activation = torch.compile(swiglu.swiglu, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: torch.bmm(activation(torch.bmm(x, up.transpose(1, 2))), down.transpose(1, 2))


TRIALS = {
    "fp8_linear": Trial(
        op="fp8_linear",
        calling="f(x, w, w_scales): x (M, K) bfloat16, w (N, K) float8_e4m3fn, w_scales (ceil(N/128), ceil(K/128)) "
        "float32 -> x w' (M, N) bfloat16, x quantised in 1 x 128 tiles on the way",
        inputs=tokens,
        ours=linear,
        oracle=linear_oracle,
        error=gemm.error,
        rivals={
            "cublaslt-block": Rival(linear_cublaslt, "a compiled quantiser, then torch's scaled_mm", gemm.error),
            "bf16": Rival(linear_bf16, "torch.mm on bfloat16: twice the bytes, no quantisation error"),
        },
        small=({"M": 5, "N": 200, "K": 272}, {"M": 1, "N": 64, "K": 128}),
        small_config={
            "quantize_tiles": {"ROWS": 4, "num_warps": 4},
            "fp8_gemm": fp8_gemm.few(64, 16, 4, 3, 2),
        },
        precision="fp8",
    ),
    "masked_mlp": Trial(
        op="masked_mlp",
        calling="f(x, x_scales, masked_m, gate_up, gate_up_scales, down, down_scales): x (E, R, D) float8_e4m3fn with "
        "x_scales (E, R, D/128) float32; masked_m (E) int32; gate_up (E, 2F, D) and down (E, D, F) float8_e4m3fn with "
        "scales per 128 x 128 -> (E, R, D) bfloat16, of which the valid rows count",
        inputs=dispatched,
        ours=mlp,
        oracle=mlp_oracle,
        error=mlp_error,
        rivals={"bf16": Rival(mlp_bf16, "torch.bmm on bfloat16: twice the bytes, no quantisation error")},
        small=({"E": 2, "R": 5, "D": 256, "F": 128}, {"E": 3, "R": 1, "D": 128, "F": 144}),
        precision="fp8",
    ),
}
