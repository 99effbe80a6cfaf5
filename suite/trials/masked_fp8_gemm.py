"""The trial of the masked grouped FP8 GEMM (kernels/masked_fp8_gemm.py)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.kernels import grouped_tiles, masked_fp8_gemm
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.fp8_gemm import block_scaled, by_row
from v3bench.suite.trials.grouped_fp8_gemm import Call, deep_gemm, rows_of_all, weights, wide
from v3bench.suite.trials.trial import Inputs, Rival, Shape, Trial

SPARE = 64  # rows of room are a multiple of it: some are not valid


def room(R: int) -> int:
    """Rows there is room for, where R are valid."""
    return R // SPARE * SPARE + SPARE


def decoding(shape: Shape, device: str) -> Inputs:
    """R valid rows for each expert, in room for more."""
    E, R, N, K = (shape[name] for name in "ERNK")
    (x, x_scales), (w, w_scales) = rows_of_all(E * room(R), K, device), weights(E, N, K, device)
    masked_m = torch.full((E,), R, dtype=torch.int32, device=device)
    stacks = masked_fp8_gemm.stacked(x_scales, E)
    return {"x": x.view(E, -1, K), "x_scales": stacks, "w": w, "w_scales": w_scales, "masked_m": masked_m}


def oracle(x: Tensor, x_scales: Tensor, w: Tensor, w_scales: Tensor, masked_m: Tensor) -> Tensor:
    """The definition in float64."""
    return masked_fp8_gemm.reference(x, x_scales, w, w_scales, masked_m, torch.float64, torch.float64)


def error(got: Any, want: Tensor, inputs: Inputs) -> float:
    """Worst valid row over one rounding to bfloat16, as the dense product's; a list holds the valid rows by expert."""
    valid = torch.arange(want.shape[1], device=want.device) < inputs["masked_m"][:, None]
    return rounding_error(torch.cat(got) if isinstance(got, list) else got[valid], want[valid], torch.bfloat16)


def bfloat16(inputs: Inputs) -> Call:
    """torch's batched product of the dequantised operands, all rows."""
    x, w = wide(inputs)
    return lambda: torch.bmm(x, w.transpose(1, 2))


def row_scaled(inputs: Inputs) -> Call:
    """torch's grouped FP8 product, which has one scale per row on Hopper: the operands quantised anew, all rows."""
    x, w = wide(inputs, torch.float32)
    (codes, scales), (w_codes, w_scales) = by_row(x.flatten(0, 1)), by_row(w.flatten(0, 1))
    a, b, kind = codes.view(x.shape), w_codes.view(w.shape).transpose(1, 2), F.ScalingType.RowWise
    a_scales, b_scales = scales.view(x.shape[:2]), w_scales.view(w.shape[:2])

    function: Any = F.scaled_grouped_mm  # type: ignore[attr-defined]
    more = {"output_dtype": torch.bfloat16, "use_fast_accum": True}
    return lambda: function(a, b, a_scales, kind, b_scales, kind, **more)


def loop(inputs: Inputs) -> Call:
    """cuBLASLt's block-scaled product, expert by expert; how many rows each has is read before the clock starts."""
    calls = []
    for e, rows in enumerate(inputs["masked_m"].tolist()):
        if rows:
            a = {"a": inputs["x"][e, :rows], "a_scales": inputs["x_scales"][e, :rows]}
            calls.append(block_scaled(a | {"b": inputs["w"][e], "b_scales": inputs["w_scales"][e]}))
    return lambda: [call() for call in calls]


def compiled(inputs: Inputs) -> Call:
    """torch.compile of dequantising and a batched product in bfloat16, all rows."""

    def dequantise_and_multiply(x: Tensor, x_scales: Tensor, w: Tensor, w_scales: Tensor) -> Tensor:
        a, b = wide({"x": x, "x_scales": x_scales, "w": w, "w_scales": w_scales})
        return torch.bmm(a, b.transpose(1, 2))

    function = torch.compile(dequantise_and_multiply, mode="max-autotune-no-cudagraphs", dynamic=False)
    given = {name: value for name, value in inputs.items() if name != "masked_m"}
    return lambda: function(**given)


def deep_gemm_masked(inputs: Inputs) -> Call:
    """DeepGEMM's kernel."""
    function = deep_gemm("m_grouped_fp8_gemm_nt_masked", "m_grouped_gemm_fp8_fp8_bf16_nt_masked")
    x, w, masked_m = inputs["x"], inputs["w"], inputs["masked_m"]
    # It wants every expert's scales by column, one expert after another.
    scales = inputs["x_scales"].transpose(1, 2).contiguous().transpose(1, 2)
    out = torch.empty(*x.shape[:2], w.shape[1], dtype=torch.bfloat16, device=x.device)
    expected = int(masked_m.max())

    def call() -> Tensor:
        function((x, scales), (w, inputs["w_scales"]), out, masked_m, expected)
        return out

    return call


TRIALS = {
    "masked_fp8_gemm": Trial(
        op="masked_fp8_gemm",
        calling="f(x, x_scales, w, w_scales, masked_m): x (E, R, K) float8_e4m3fn; x_scales (E, R, ceil(K/128)) "
        "float32, rows dense; w (E, N, K) float8_e4m3fn; w_scales (E, ceil(N/128), ceil(K/128)) float32; masked_m (E) "
        "int32, the valid rows of each expert -> (E, R, N) bfloat16, of which the valid rows count",
        inputs=decoding,
        ours=masked_fp8_gemm.masked_fp8_gemm,
        oracle=oracle,
        error=error,
        rivals={
            "row-wise": Rival(row_scaled, "torch's scaled_grouped_mm, one scale per row: coarser scales"),
            "bf16": Rival(bfloat16, "torch.bmm on bfloat16 operands: twice the bytes", error),
            "cublaslt-loop": Rival(loop, "torch's scaled_mm, 1x128 and 128x128 scales, expert by expert", error),
            "compiled": Rival(compiled, "torch.compile of dequantising and torch.bmm in bfloat16", error),
            "deepgemm": Rival(deep_gemm_masked, "DeepGEMM, where it is installed", error),
        },
        small=({"E": 3, "R": 17, "N": 136, "K": 144}, {"E": 4, "R": 1, "N": 64, "K": 128}),
        small_config=grouped_tiles.swapped(16, 64, 1, 1, 4, 3),
        precision="fp8",
    ),
}
