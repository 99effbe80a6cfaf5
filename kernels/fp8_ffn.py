"""The dense feed-forward network in FP8 (ffn.py; V3 report, section 3.3, figure 6): codes are made where values are.

    reference   the definition
    fp8_ffn     launcher; differentiable in all that are tensors
    Down        SwiGLU, its quantisation and the second product, with gradients

RMSNorm, if given, and quantisation in one pass; the first product; SwiGLU and quantisation in one pass; the second
product. SwiGLU's result exists as codes only: for the second matrix's gradient it is made again with its own, as the V3
report has it (section 3.3.3).

T tokens, of any leading dimensions  D width  F inner width
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from v3bench.kernels import checks, fp8_linear, fp8_norm_linear, swiglu_fused, swiglu_quantize
from v3bench.kernels import fp8_gemm as gemm
from v3bench.kernels.ffn import Norm
from v3bench.kernels.fp8_linear import (
    Linear,
    Quantizer,
    bias_gradient,
    differentiated,
    flat,
    input_gradient,
    product_of_codes,
    weight_gradient,
)
from v3bench.kernels.norm_quantize import rms_norm_quantize
from v3bench.kernels.operation import operation
from v3bench.kernels.quantize import WIDE, quantize_blocks, quantize_tiles

OP = "fp8_ffn"


def reference(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    norm_before: Norm | None = None,
) -> Tensor:
    """x (..., D), w_gate_up (2F, D), w_down (D, F), biases (2F) and (D) -> (..., D) in x's dtype."""
    if norm_before is None:
        h = fp8_linear.reference(x, w_gate_up, b_gate_up)
    else:
        (h,) = fp8_norm_linear.reference(x, *norm_before, (w_gate_up,), (b_gate_up,))
    codes = swiglu_quantize.reference(h.reshape(-1, len(w_gate_up)))
    return fp8_linear.reference_of_codes(codes, w_down, b_down, x.dtype).view(*x.shape[:-1], len(w_down))


@operation
def fp8_ffn(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    norm_before: Norm | None = None,
    *,
    quantize: Quantizer = quantize_blocks,
) -> Tensor:
    """x (..., D) bf16 or f32, w_gate_up (2F, D), gate rows first, w_down (D, F) -> (..., D) in x's dtype, as
    ``reference``.

    D and F are multiples of 16; norm_before is the weight (D) and eps of an RMSNorm. ``quantize`` makes the weights'
    codes: a WeightCache (fp8_linear.py) where they do not change. Raises ValueError.
    """
    check(x, w_gate_up, w_down, b_gate_up, b_down, norm_before)
    if differentiated(x, w_gate_up, w_down, b_gate_up, b_down, None if norm_before is None else norm_before[0]):
        rows = None
        if norm_before is not None:
            x, codes, scales = fp8_norm_linear.Normalised.apply(x, *norm_before)
            rows = codes, scales
        h = Linear.apply(x, w_gate_up, b_gate_up, quantize, {}, rows)
        y: Tensor = Down.apply(h, w_down, b_down, quantize)
        return y
    first = quantize_tiles(flat(x)) if norm_before is None else rms_norm_quantize(flat(x), *norm_before)
    h = product_of_codes((first[0], first[1]), quantize(w_gate_up), b_gate_up, x.dtype, {})
    z = swiglu_quantize.swiglu_quantize(h)
    return product_of_codes(z, quantize(w_down), b_down, x.dtype, {}).view(x.shape)


class Down(torch.autograd.Function):
    """gate_up (..., 2F), w_down (D, F), b_down (D) -> (..., D); keeps gate_up and the weight's codes."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, w_down: Tensor, b_down: Tensor | None, quantize: Quantizer) -> Tensor:
        rows, weight = flat(gate_up), quantize(w_down)
        ctx.save_for_backward(rows, *weight)
        ctx.dtypes = w_down.dtype, b_down.dtype if b_down is not None else None
        y = product_of_codes(swiglu_quantize.swiglu_quantize(rows), weight, b_down, gate_up.dtype, {})
        return y.view(*gate_up.shape[:-1], y.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, *weight = ctx.saved_tensors
        dy, (need_rows, need_w, need_bias, _) = flat(grad), ctx.needs_input_grad
        z = rows.new_empty(len(rows), rows.shape[1] // 2) if need_w else None
        d = None
        if need_rows:
            d = swiglu_fused.gradient(input_gradient(dy, weight, {}), rows, z).view(*grad.shape[:-1], rows.shape[1])
        elif need_w:
            z = swiglu_fused.activated(rows)
        dw = None if z is None else weight_gradient(dy, z, ctx.dtypes[0], {})
        return d, dw, bias_gradient(dy, ctx.dtypes[1]) if need_bias else None, None


def check(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    b_gate_up: Tensor | None,
    b_down: Tensor | None,
    norm_before: Norm | None,
) -> None:
    """What the launcher asks of its arguments; of the norm's eps and width, the norm does. Raises ValueError."""
    checks.tensors(OP, x=x)
    checks.tensor(OP, "w_down", w_down, WIDE, (None, None), aligned=False)
    D, F = w_down.shape
    checks.tensor(OP, "w_gate_up", w_gate_up, WIDE, (2 * F, D), aligned=False)
    checks.tensor(OP, "x", x, gemm.OUT, (*[None] * (x.ndim - 1), D), aligned=False)
    if D % 16 or F % 16 or not D or not F:
        raise ValueError(f"{OP}: w_down has shape ({D}, {F}), expected positive multiples of 16")
    vectors = {"b_gate_up": (b_gate_up, 2 * F), "b_down": (b_down, D)}
    if norm_before is not None:
        vectors["norm_before's weight"] = (norm_before[0], D)
    for name, (vector, size) in vectors.items():
        if vector is not None:
            checks.tensor(OP, name, vector, WIDE, (size,), aligned=False)
    checks.device(OP, gemm.NEEDS, x, w_gate_up, w_down, *(v for v, _ in vectors.values() if v is not None))
