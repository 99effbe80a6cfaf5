"""The trial of the contiguous grouped FP8 GEMM (kernels/grouped_fp8_gemm.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.kernels import grouped_fp8_gemm, grouped_tiles, quantize
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.fp8_gemm import block_scaled, by_row
from v3bench.suite.trials.trial import Inputs, Missing, Rival, Shape, Trial, package

Call = Callable[[], Any]
ALIGNED = 128  # rows that DeepGEMM wants each group to be a multiple of


def rows_of_all(rows: int, K: int, device: str) -> tuple[Tensor, Tensor]:
    """Rows of different magnitude, quantised -> codes (rows, K), scales (rows, W) stored by column."""
    x = torch.randn(rows, K, device=device) * torch.randn(rows, 1, device=device).exp()
    codes, scales = quantize.reference_tiles(x)
    return codes.contiguous(), quantize.empty_scales(rows, scales.shape[1], codes.device).copy_(scales)


def weights(E: int, N: int, K: int, device: str) -> tuple[Tensor, Tensor]:
    """Weights of usual size, quantised expert by expert -> codes (E, N, K), scales (E, ceil(N/128), W)."""
    made = [quantize.reference_blocks(torch.randn(N, K, device=device) * 0.02) for _ in range(E)]
    return torch.stack([codes for codes, _ in made]), torch.stack([scales for _, scales in made])


def balanced(shape: Shape, device: str) -> Inputs:
    """R rows for each expert."""
    E, R, N, K = (shape[name] for name in "ERNK")
    (x, x_scales), (w, w_scales) = rows_of_all(E * R, K, device), weights(E, N, K, device)
    offsets = torch.arange(R, E * R + 1, R, dtype=torch.int32, device=device)
    return {"x": x, "x_scales": x_scales, "w": w, "w_scales": w_scales, "offsets": offsets}


def oracle(x: Tensor, x_scales: Tensor, w: Tensor, w_scales: Tensor, offsets: Tensor) -> Tensor:
    """The definition in float64."""
    return grouped_fp8_gemm.reference(x, x_scales, w, w_scales, offsets, torch.float64, torch.float64)


def error(got: Any, want: Tensor, inputs: Inputs) -> float:
    """Worst row over one rounding to bfloat16, as the dense product's (trials/fp8_gemm.py); a list is by expert."""
    return rounding_error(torch.cat(got) if isinstance(got, list) else got, want, torch.bfloat16)


def wide(inputs: Inputs, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    """Both operands dequantised: rows (.., K), weights (E, N, K)."""
    x = grouped_fp8_gemm.spread_tiles(inputs["x"], inputs["x_scales"], torch.float32).to(dtype)
    pairs = zip(inputs["w"], inputs["w_scales"], strict=True)
    return x, torch.stack([grouped_fp8_gemm.spread_blocks(*pair, torch.float32).to(dtype) for pair in pairs])


def bfloat16(inputs: Inputs) -> Call:
    """torch's grouped product of the dequantised operands."""
    x, w = wide(inputs)
    return lambda: F.grouped_mm(x, w.transpose(1, 2), offs=inputs["offsets"])


def row_scaled(inputs: Inputs) -> Call:
    """torch's grouped FP8 product, which has one scale per row on Hopper: the operands quantised anew."""
    x, w = wide(inputs, torch.float32)
    (codes, scales), (E, N, _) = by_row(x), w.shape
    w_codes, w_scales = by_row(w.flatten(0, 1))
    b, kind = w_codes.view(w.shape).transpose(1, 2), F.ScalingType.RowWise

    function: Any = F.scaled_grouped_mm  # type: ignore[attr-defined]
    more = {"offs": inputs["offsets"], "output_dtype": torch.bfloat16, "use_fast_accum": True}
    return lambda: function(codes, b, scales.view(-1), kind, w_scales.view(E, N), kind, **more)


def loop(inputs: Inputs) -> Call:
    """cuBLASLt's block-scaled product, expert by expert; where each ends is read before the clock starts."""
    calls, start = [], 0
    for e, end in enumerate(inputs["offsets"].tolist()):
        if end > start:
            a = {"a": inputs["x"][start:end], "a_scales": inputs["x_scales"][start:end]}
            calls.append(block_scaled(a | {"b": inputs["w"][e], "b_scales": inputs["w_scales"][e]}))
        start = end
    return lambda: [call() for call in calls]


def compiled(inputs: Inputs) -> Call:
    """torch.compile of dequantising and torch's grouped product in bfloat16."""

    def dequantise_and_multiply(x: Tensor, x_scales: Tensor, w: Tensor, w_scales: Tensor, offsets: Tensor) -> Tensor:
        a, b = wide({"x": x, "x_scales": x_scales, "w": w, "w_scales": w_scales})
        return F.grouped_mm(a, b.transpose(1, 2), offs=offsets)

    function = torch.compile(dequantise_and_multiply, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: function(**inputs)


def deep_gemm(*names: str) -> Any:
    """DeepGEMM's function of the first of these names that it has. Raises Missing."""
    library = package("deep_gemm")
    for name in names:
        if function := getattr(library, name, None):
            return function
    raise Missing(f"deep_gemm has none of {', '.join(names)}")


def deep_gemm_contiguous(inputs: Inputs) -> Call:
    """DeepGEMM's kernel: each row names its expert, and groups are padded to 128 rows."""
    function = deep_gemm("m_grouped_fp8_gemm_nt_contiguous", "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous")
    x, w, ends = inputs["x"], inputs["w"], inputs["offsets"]
    if bool((ends % ALIGNED).any()):
        raise Missing(f"DeepGEMM's contiguous layout pads every expert to {ALIGNED} rows")
    experts = torch.searchsorted(ends, torch.arange(len(x), device=x.device, dtype=torch.int32), right=True)
    index, out = experts.int(), torch.empty(len(x), w.shape[1], dtype=torch.bfloat16, device=x.device)

    def call() -> Tensor:
        function((x, inputs["x_scales"]), (w, inputs["w_scales"]), out, index)
        return out

    return call


TRIALS = {
    "grouped_fp8_gemm": Trial(
        op="grouped_fp8_gemm",
        calling="f(x, x_scales, w, w_scales, offsets): x (T, K) float8_e4m3fn, rows by expert; x_scales (T, "
        "ceil(K/128)) float32 by column; w (E, N, K) float8_e4m3fn; w_scales (E, ceil(N/128), ceil(K/128)) float32; "
        "offsets (E) int32, the end of each expert's rows -> (T, N) bfloat16",
        inputs=balanced,
        ours=grouped_fp8_gemm.grouped_fp8_gemm,
        oracle=oracle,
        error=error,
        rivals={
            "row-wise": Rival(row_scaled, "torch's scaled_grouped_mm, one scale per row: coarser scales"),
            "bf16": Rival(bfloat16, "torch's grouped_mm on bfloat16 operands: twice the bytes", error),
            "cublaslt-loop": Rival(loop, "torch's scaled_mm, 1x128 and 128x128 scales, expert by expert", error),
            "compiled": Rival(compiled, "torch.compile of dequantising and grouped_mm in bfloat16", error),
            "deepgemm": Rival(deep_gemm_contiguous, "DeepGEMM, where it is installed", error),
        },
        small=({"E": 3, "R": 17, "N": 136, "K": 144}, {"E": 5, "R": 1, "N": 64, "K": 128}),
        small_config=grouped_tiles.swapped(16, 64, 1, 1, 4, 3),
        precision="fp8",
    ),
}
