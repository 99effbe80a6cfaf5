"""A linear layer whose three products run in FP8 (V3 report, section 3.3.1, figure 6): y = x W' + b.

    reference     the definition of y
    fp8_linear    launcher; differentiable in x, w and the bias
    WeightCache   quantised weights kept while their parameters do not change, for inference

    y   x in 1 x 128 tiles, W in 128 x 128 blocks
    dx  dy in 1 x 128 tiles, W's own codes turned: a block turned keeps its scale
    dW  dy and x in tiles of 128 tokens, summed in float32, rounded to W's dtype

What is quantised for dx and dW is dy itself, with the guard as its clamp: gradients may be small. Codes of x are not
kept for dW, as its tiles lie across those of y.

T tokens, of any leading dimensions  N outputs  K inputs
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from v3bench.kernels import checks, quantize
from v3bench.kernels import fp8_gemm as gemm
from v3bench.kernels.fp8_gemm import fp8_gemm
from v3bench.kernels.fp8_gemm_wgrad import fp8_gemm_wgrad
from v3bench.kernels.launch import Config
from v3bench.kernels.operation import operation
from v3bench.kernels.quantize import GUARD, WIDE, quantize_blocks, quantize_tiles
from v3bench.kernels.transpose import quantize_columns, transpose_weights

OP = "fp8_linear"
Quantized = tuple[Tensor, Tensor]  # codes and scales
Quantizer = Callable[[Tensor], Quantized]
Configs = Mapping[str, Config]


def reference(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), w (N, K), bias (N) -> (..., N) in x's dtype."""
    rows = quantize.reference_tiles(x.reshape(-1, x.shape[-1]))
    y = gemm.reference(*rows, *quantize.reference_blocks(w), out_dtype=x.dtype)
    return (y if bias is None else y + bias.to(y.dtype)).view(*x.shape[:-1], len(w))


@operation
def fp8_linear(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    quantize: Quantizer = quantize_blocks,
    configs: Configs | None = None,
) -> Tensor:
    """x (..., K) bf16 or f32, w (N, K), bias (N) -> (..., N) in x's dtype, as ``reference``.

    K is a multiple of 16, and N too where x has a gradient. ``quantize`` makes the weight's codes: a WeightCache where
    it does not change. ``configs`` overrules the launch tables, by operation. Raises ValueError.
    """
    check(x, w, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, w, bias)):
        if x.requires_grad and len(w) % 16:
            raise ValueError(f"{OP}: w has {len(w)} outputs, expected a multiple of 16 for the gradient of x")
        y: Tensor = Linear.apply(x, w, bias, quantize, configs or {})
        return y
    return product(x, quantize(w), bias, configs or {})


def product(x: Tensor, weight: Quantized, bias: Tensor | None, configs: Configs) -> Tensor:
    """The product, without a gradient."""
    rows = quantize_tiles(flat(x), config=configs.get("quantize_tiles"))
    y = fp8_gemm(*rows, *weight, out_dtype=x.dtype, config=configs.get("fp8_gemm"))
    if bias is not None:
        y += bias
    return y.view(*x.shape[:-1], y.shape[1])


class Linear(torch.autograd.Function):
    """Keeps x for dW and the weight's codes for dx."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, quantize: Quantizer, configs: Configs) -> Tensor:
        weight = quantize(w)
        ctx.save_for_backward(x, *weight)
        ctx.configs, ctx.dtypes = configs, (w.dtype, bias.dtype if bias is not None else None)
        return product(x, weight, bias, configs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, codes, scales = ctx.saved_tensors
        dy, dx, dw, db = flat(grad), None, None, None
        if ctx.needs_input_grad[0]:
            rows = quantize_tiles(dy, clamp=GUARD, config=ctx.configs.get("quantize_tiles"))
            turned, turned_scales = transpose_weights(codes[None], scales[None])
            dx = fp8_gemm(
                *rows, turned[0], turned_scales[0], out_dtype=x.dtype, config=ctx.configs.get("fp8_gemm")
            ).view_as(x)
        if ctx.needs_input_grad[1]:
            columns = *quantize_columns(dy, clamp=GUARD), *quantize_columns(flat(x))
            dw = fp8_gemm_wgrad(*columns, config=ctx.configs.get("fp8_gemm_wgrad")).to(ctx.dtypes[0])
        if ctx.needs_input_grad[2]:
            db = dy.sum(0, dtype=torch.float32).to(ctx.dtypes[1])
        return dx, dw, db, None, None


def flat(x: Tensor) -> Tensor:
    """x (..., K) -> (T, K), dense along its rows: the gradient of a sum, for one, is an expanded scalar."""
    rows = x.detach().reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 or rows.shape[1] == 1 else rows.contiguous()


class WeightCache:
    """Called as quantize_blocks is: the codes and scales of a parameter, made once for each state of it.

    A tensor is known by identity; its version, which every write in place raises, and its memory tell whether it
    changed. Writes through ``.data`` raise no version: ``clear`` after such. Codes are dropped with their parameter.
    What a CUDA graph captures is not kept: call once before, and the graph holds the codes and not their making.
    """

    def __init__(self, quantize: Quantizer = quantize_blocks) -> None:
        self.quantize = quantize
        self.kept: dict[int, tuple[weakref.ref[Tensor], tuple[int, int], Quantized]] = {}

    def __call__(self, w: Tensor) -> Quantized:
        """w (N, K), or (E, N, K) -> codes, scales."""
        if w.is_inference():  # has no version: any write would go unseen
            return self.quantize(w)
        known, state = self.kept.get(id(w)), (w._version, w.data_ptr())
        if known is not None and known[0]() is w and known[1] == state:
            return known[2]
        made, kept, key = self.quantize(w), self.kept, id(w)
        if capturing(w):  # nothing has run yet, and the memory is the graph's
            return made
        kept[key] = (weakref.ref(w, lambda _: kept.pop(key, None)), state, made)
        return made

    def clear(self) -> None:
        """Forget all."""
        self.kept.clear()


def capturing(w: Tensor) -> bool:
    """Whether what is done to w now is captured in a CUDA graph instead of done."""
    return w.is_cuda and torch.cuda.is_current_stream_capturing()


def check(x: Tensor, w: Tensor, bias: Tensor | None) -> None:
    """What the launcher asks of its arguments. Raises ValueError."""
    checks.tensor(OP, "w", w, WIDE, (None, None), aligned=False)
    N, K = w.shape
    checks.tensor(OP, "x", x, gemm.OUT, (*[None] * (x.ndim - 1), K) if x.ndim else (K,), aligned=False)
    if K % 16:
        raise ValueError(f"{OP}: w has {K} inputs, expected a multiple of 16")
    if bias is not None:
        checks.tensor(OP, "bias", bias, WIDE, (N,), aligned=False)
    checks.device(OP, gemm.NEEDS, x, w, *([bias] if bias is not None else []))
