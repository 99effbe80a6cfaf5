"""The routed experts of DeepSeekMoE in FP8 (V3 report, section 3.3, figure 6), on Triton kernels from end to end.

    fp8_experts   launcher, with the arguments of experts.py
    product       both grouped products with what lies between and around them
    Experts       the same with gradients
    masked_mlp    both products over a masked layout: what an expert-parallel decoder runs between its all-to-alls

A token's row is quantised once and copied to where its experts read it; the first product, SwiGLU with the token's gate
and quantisation in one pass, the second product, and the sum over each token's experts. All three products of each
weight run in FP8: the input's gradient with the weights' own codes turned, the weights' gradient over tokens quantised
anew in tiles along them, each expert's padded to 128. Sums between products are kept in x's dtype, as are the inputs of
the first product and of SwiGLU for the backward; SwiGLU itself is made again.

T tokens  D width  E experts  K experts per token  F inner width  R rows by expert
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from v3bench.kernels import checks
from v3bench.kernels.fp8_gemm_wgrad import grouped_fp8_wgrad
from v3bench.kernels.fp8_linear import Quantized, Quantizer, differentiated
from v3bench.kernels.gated_swiglu import gated_swiglu_backward
from v3bench.kernels.grouped_fp8_gemm import grouped_fp8_gemm
from v3bench.kernels.masked_fp8_gemm import masked_fp8_gemm
from v3bench.kernels.operation import operation
from v3bench.kernels.order import Order, order
from v3bench.kernels.permute import permute, unpermute
from v3bench.kernels.quantize import GUARD, TILE, WIDE, quantize_blocks, quantize_tiles
from v3bench.kernels.swiglu_quantize import swiglu_quantize
from v3bench.kernels.transpose import quantize_columns, transpose_weights

OP = "fp8_experts"
DTYPES = (torch.bfloat16, torch.float32)


@operation
def fp8_experts(
    x: Tensor,
    gates: Tensor,
    index: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    *,
    quantize: Quantizer = quantize_blocks,
) -> Tensor:
    """x (T, D), gates (T, K), index int64 (T, K), w_gate_up (E, 2F, D), w_down (E, D, F) -> (T, D) in x's dtype.

    Differentiable in all but index. ``quantize`` makes the weights' codes: a WeightCache (fp8_linear.py) where they do
    not change. A choice outside 0..E-1 adds nothing. Raises ValueError.
    """
    check(x, gates, index, w_gate_up, w_down)
    if differentiated(x, gates, w_gate_up, w_down):
        out: Tensor = Experts.apply(x, gates, index, w_gate_up, w_down, quantize)
        return out
    made = order(index.contiguous(), len(w_down))
    return product(x, gates, made, quantize(w_gate_up), quantize(w_down))[0]


def product(x: Tensor, gates: Tensor, made: Order, gate_up: Quantized, down: Quantized) -> tuple[Tensor, Tensor]:
    """-> (T, D), and what goes into SwiGLU (R, 2F)."""
    codes, scales = quantize_tiles(x)
    rows, row_scales = permute(codes, made, scales)
    h = grouped_fp8_gemm(rows, row_scales, *gate_up, made.offsets, x.dtype)
    # A gate may as well scale what goes into the second matrix, which is narrower than what comes out.
    z, z_scales = swiglu_quantize(h, flat(gates), made.pairs)
    y = grouped_fp8_gemm(z, z_scales, *down, made.offsets, x.dtype)
    return unpermute(y, made), h


def masked_mlp(
    x: Tensor, scales: Tensor, masked_m: Tensor, gate_up: Quantized, down: Quantized, *, expected_m: int | None = None
) -> Tensor:
    """x (E, R, D) e4m3, scales (E, R, D/128), masked_m (E) valid rows, weights' codes and scales -> (E, R, D) bfloat16.

    Three launches; rows that are not valid are neither read nor written. Raises ValueError.
    """
    h = masked_fp8_gemm(x, scales, *gate_up, masked_m, expected_m=expected_m)
    return masked_fp8_gemm(*swiglu_quantize(h, masked_m=masked_m), *down, masked_m, expected_m=expected_m)


class Experts(torch.autograd.Function):
    """Backward as the V3 report has it: gradients quantised in 1 x 128 tiles, along the side that each product sums."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gates: Tensor, index: Tensor, w_gate_up: Tensor, w_down: Tensor, quantize: Quantizer
    ) -> Tensor:
        made = order(index.contiguous(), len(w_down), align=TILE)
        gate_up, down = quantize(w_gate_up), quantize(w_down)
        y, h = product(x, gates, made, gate_up, down)
        ctx.save_for_backward(x, gates, h, *gate_up, *down)
        ctx.made, ctx.dtypes = made, (w_gate_up.dtype, w_down.dtype)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, gates, h, *codes = ctx.saved_tensors
        made, (need_x, need_gates, _, need_gate_up, need_down, _) = ctx.made, ctx.needs_input_grad
        dy = permute(dout.contiguous(), made)  # (R, D), zero in padding
        dz = input_gradient(dy, (codes[2], codes[3]), made)  # (R, F)
        dh, z, d_gates = gated_swiglu_backward(h, dz, flat(gates), made.pairs)
        dx = unpermute(input_gradient(dh, (codes[0], codes[1]), made), made) if need_x else None
        d_gate_up = weight_gradient(dh, permute(x, made), made, ctx.dtypes[0]) if need_gate_up else None
        d_down = weight_gradient(dy, z, made, ctx.dtypes[1]) if need_down else None
        return dx, d_gates.view_as(gates).to(gates.dtype) if need_gates else None, None, d_gate_up, d_down, None


def input_gradient(dy: Tensor, weights: Quantized, made: Order) -> Tensor:
    """dy (R, N), the weights' codes (E, N, K) and scales -> (R, K)."""
    return grouped_fp8_gemm(*quantize_tiles(dy, clamp=GUARD), *transpose_weights(*weights), made.offsets, dy.dtype)


def weight_gradient(dy: Tensor, x: Tensor, made: Order, dtype: torch.dtype) -> Tensor:
    """dy (R, N), x (R, K) -> (E, N, K): each expert's own dy' x, zero for an expert without rows."""
    columns = *quantize_columns(dy, clamp=GUARD), *quantize_columns(x)
    return grouped_fp8_wgrad(*columns, made.offsets).to(dtype)


def flat(gates: Tensor) -> Tensor:
    """gates (T, K) -> (T K) float32."""
    return gates.detach().float().flatten()


def check(x: Tensor, gates: Tensor, index: Tensor, w_gate_up: Tensor, w_down: Tensor) -> None:
    """What the launcher asks of its arguments beyond what each kernel does. Raises ValueError."""
    checks.tensor(OP, "x", x, DTYPES, (None, None))
    T, D = x.shape
    checks.tensor(OP, "index", index, (torch.int64, torch.int32), (T, None), aligned=False)
    checks.tensor(OP, "gates", gates, (torch.float32, torch.bfloat16), index.shape, aligned=False)
    checks.tensor(OP, "w_down", w_down, WIDE, (None, D, None), aligned=False)
    E, _, F = w_down.shape
    checks.tensor(OP, "w_gate_up", w_gate_up, WIDE, (E, 2 * F, D), aligned=False)
    checks.device(OP, checks.HOPPER, x, gates, index, w_gate_up, w_down)
    if D % 16 or F % 16:
        raise ValueError(f"{OP}: w_down has matrices of {D} x {F}, expected multiples of 16 on both sides")
    if not E or not D:
        raise ValueError(f"{OP}: w_down has shape {tuple(w_down.shape)}, expected at least one expert and output")
