"""RMSNorm, quantisation in the same pass, and the FP8 products that read the codes (norm_linear.py, fp8_linear.py).

    reference         the definition
    fp8_norm_linear   launcher; differentiable in x, the norm's weight, the matrices and the biases
    Normalised        the normalised rows and their codes, with the norm's gradients

For inference the normalised rows exist as codes only. The weights' gradients read the rows themselves, in tiles along
the tokens: for training the same pass writes them besides, and 1/rms for the norm's own backward (norm_fused.py).

T tokens, of any leading dimensions  N outputs  K inputs
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from v3bench.kernels import checks, fp8_linear, norm_fused, norm_quantize
from v3bench.kernels import fp8_gemm as gemm
from v3bench.kernels.fp8_linear import Quantizer, differentiated, flat, linear_of_codes
from v3bench.kernels.norm_linear import Biases, paired
from v3bench.kernels.norm_quantize import rms_norm_quantize
from v3bench.kernels.quantize import WIDE, quantize_blocks

OP = "fp8_norm_linear"
MOST = norm_quantize.MOST


def reference(
    x: Tensor, norm_weight: Tensor, eps: float, weights: Sequence[Tensor], biases: Biases = None
) -> tuple[Tensor, ...]:
    """x (..., K), norm_weight (K), weights (N, K), a bias (N) or None for each -> (..., N) for each, in x's dtype."""
    rows = norm_quantize.reference(x.reshape(-1, x.shape[-1]), norm_weight, eps)
    products = (fp8_linear.reference_of_codes(rows, w, b, x.dtype) for w, b in paired(OP, weights, biases))
    return tuple(y.view(*x.shape[:-1], y.shape[1]) for y in products)


def fp8_norm_linear(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
    biases: Biases = None,
    *,
    quantize: Quantizer = quantize_blocks,
) -> tuple[Tensor, ...]:
    """x (..., K) bf16 or f32, norm_weight (K), weights (N, K) -> (..., N) for each, in x's dtype, as ``reference``.

    K is a multiple of 16, and each N too where the normalised x has a gradient. ``quantize`` as of fp8_linear, which
    counts and computes the products. Raises ValueError.
    """
    layers = list(paired(OP, weights, biases))
    training = differentiated(x, norm_weight, *(part for layer in layers for part in layer))
    check(x, norm_weight, layers, turned=training and (x.requires_grad or norm_weight.requires_grad))
    if training:
        n, *rows = Normalised.apply(x, norm_weight, eps)
        return tuple(fp8_linear.fp8_linear(n, w, b, quantize=quantize, rows=(rows[0], rows[1])) for w, b in layers)
    codes, scales = rms_norm_quantize(flat(x), norm_weight, eps)
    products = (linear_of_codes(codes, scales, w, b, out_dtype=x.dtype, quantize=quantize) for w, b in layers)
    return tuple(y.view(*x.shape[:-1], y.shape[1]) for y in products)


class Normalised(torch.autograd.Function):
    """x (..., K) -> the normalised rows, as x, and without a gradient their codes (T, K) and scales."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        rows = flat(x)
        codes, scales, n, rstd = rms_norm_quantize(rows, weight, eps, rows=True, rstd=True)
        ctx.save_for_backward(rows, weight, rstd)
        ctx.mark_non_differentiable(codes, scales)
        ctx.set_materialize_grads(False)  # codes have none, not even zeros
        return n.view(x.shape), codes, scales

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor, Tensor, None]:
        dx, dw = norm_fused.gradients(flat(grad), *ctx.saved_tensors)
        return dx.view(grad.shape), dw, None


def check(x: Tensor, norm_weight: Tensor, layers: Sequence[tuple[Tensor, Tensor | None]], *, turned: bool) -> None:
    """What the launcher asks of its arguments; of eps, the norm does. Raises ValueError."""
    for i, (w, bias) in enumerate(layers):
        fp8_linear.check(OP, x, w, bias, (f"weights[{i}]", f"biases[{i}]"), turned=turned)
    K = x.shape[-1]
    if not 1 <= K <= MOST:
        raise ValueError(f"{OP}: x has rows of {K} columns, expected 1 to {MOST}")
    checks.tensor(OP, "norm_weight", norm_weight, WIDE, (K,), aligned=False)
    checks.device(OP, gemm.NEEDS, x, norm_weight)
