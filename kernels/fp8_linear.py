"""A linear layer whose three products run in FP8 (V3 report, section 3.3.1, figure 6): y = x W' + b.

    reference         the definition of y
    fp8_linear        launcher; differentiable in x, w and the bias
    linear_of_codes   launcher for x that is quantised already, for inference
    WeightCache       quantised weights kept while their parameters do not change, for inference

    y   x in 1 x 128 tiles, W in 128 x 128 blocks
    dx  dy in 1 x 128 tiles, W's own codes turned: a block turned keeps its scale
    dW  dy and x in tiles of 128 tokens, summed in float32, rounded to W's dtype

What is quantised for dx and dW is dy itself, with the guard as its clamp: gradients may be small. Codes of x are not
kept for dW, as its tiles lie across those of y.

T tokens, of any leading dimensions  N outputs  K inputs
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
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
    return reference_of_codes(rows, w, bias, x.dtype).view(*x.shape[:-1], len(w))


def reference_of_codes(rows: Quantized, w: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The same of rows (T, K) that are quantised -> (T, N) in ``dtype``."""
    y = gemm.reference(*rows, *quantize.reference_blocks(w), out_dtype=dtype)
    return y if bias is None else y + bias.to(dtype)


@operation
def fp8_linear(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    quantize: Quantizer = quantize_blocks,
    configs: Configs | None = None,
    rows: Quantized | None = None,
) -> Tensor:
    """x (..., K) bf16 or f32, w (N, K), bias (N) -> (..., N) in x's dtype, as ``reference``.

    K is a multiple of 16, and N too where x has a gradient. ``quantize`` makes the weight's codes: a WeightCache where
    it does not change. ``configs`` overrules the launch tables, by operation. ``rows`` are x's codes (T, K) and scales,
    where the kernel that made x made them too. Raises ValueError.
    """
    training = differentiated(x, w, bias)
    check(OP, x, w, bias, turned=training and x.requires_grad)
    if training:
        y: Tensor = Linear.apply(x, w, bias, quantize, configs or {}, rows)
        return y
    return product(x, quantize(w), bias, configs or {}, rows)


@operation
def linear_of_codes(
    codes: Tensor,
    scales: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    out_dtype: torch.dtype,
    quantize: Quantizer = quantize_blocks,
) -> Tensor:
    """codes (T, K) e4m3, scales (T, ceil(K/128)), w (N, K), bias (N) -> (T, N), without a gradient: for a kernel that
    makes nothing but codes of what only products read. Raises ValueError.
    """
    return product_of_codes((codes, scales), quantize(w), bias, out_dtype, {})


def product(
    x: Tensor, weight: Quantized, bias: Tensor | None, configs: Configs, rows: Quantized | None = None
) -> Tensor:
    """The product, without a gradient."""
    rows = rows or quantize_tiles(flat(x), config=configs.get("quantize_tiles"))
    y = product_of_codes(rows, weight, bias, x.dtype, configs)
    return y.view(*x.shape[:-1], y.shape[1])


def product_of_codes(
    rows: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype, configs: Configs
) -> Tensor:
    """The same of rows (T, K) that are quantised -> (T, N) in ``dtype``."""
    y = fp8_gemm(*rows, *weight, out_dtype=dtype, config=configs.get("fp8_gemm"))
    if bias is not None:
        y += bias
    return y


class Linear(torch.autograd.Function):
    """Keeps x for dW and the weight's codes for dx."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        quantize: Quantizer,
        configs: Configs,
        rows: Quantized | None,
    ) -> Tensor:
        weight = quantize(w)
        ctx.save_for_backward(x, *weight)
        ctx.configs, ctx.dtypes = configs, (w.dtype, bias.dtype if bias is not None else None)
        return product(x, weight, bias, configs, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weight = ctx.saved_tensors
        dy, (need_x, need_w, need_bias, *_) = flat(grad), ctx.needs_input_grad
        dx = input_gradient(dy, weight, ctx.configs).view_as(x) if need_x else None
        dw = weight_gradient(dy, flat(x), ctx.dtypes[0], ctx.configs) if need_w else None
        return dx, dw, bias_gradient(dy, ctx.dtypes[1]) if need_bias else None, None, None, None


def input_gradient(dy: Tensor, weight: Sequence[Tensor], configs: Configs) -> Tensor:
    """dy (T, N), the weight's codes (N, K) and scales -> (T, K) in dy's dtype."""
    rows = quantize_tiles(dy, clamp=GUARD, config=configs.get("quantize_tiles"))
    codes, scales = transpose_weights(*(part[None] for part in weight))
    return fp8_gemm(*rows, codes[0], scales[0], out_dtype=dy.dtype, config=configs.get("fp8_gemm"))


def weight_gradient(dy: Tensor, x: Tensor, dtype: torch.dtype, configs: Configs) -> Tensor:
    """dy (T, N), x (T, K) -> dy' x (N, K)."""
    columns = *quantize_columns(dy, clamp=GUARD), *quantize_columns(x)
    return fp8_gemm_wgrad(*columns, config=configs.get("fp8_gemm_wgrad")).to(dtype)


def bias_gradient(dy: Tensor, dtype: torch.dtype) -> Tensor:
    """dy (T, N) -> (N), summed in float32."""
    return dy.sum(0, dtype=torch.float32).to(dtype)


def differentiated(*tensors: Tensor | None) -> bool:
    """Whether autograd wants to know of an operation on these."""
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors)


def flat(x: Tensor) -> Tensor:
    """x (..., K) -> (T, K), dense along its rows: the gradient of a sum, for one, is an expanded scalar."""
    rows = x.detach().reshape(x.shape[:-1].numel(), x.shape[-1])
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


def check(
    op: str, x: Tensor, w: Tensor, bias: Tensor | None, names: tuple[str, str] = ("w", "bias"), *, turned: bool = False
) -> None:
    """What a launcher asks of one layer's arguments, ``names`` those of w and bias; ``turned``: w is, for the gradient
    of x. Raises ValueError.
    """
    name, its_bias = names
    checks.tensors(op, x=x)
    checks.tensor(op, name, w, WIDE, (None, None), aligned=False)
    N, K = w.shape
    checks.tensor(op, "x", x, gemm.OUT, (*[None] * (x.ndim - 1), K) if x.ndim else (K,), aligned=False)
    if K % 16:
        raise ValueError(f"{op}: {name} has {K} inputs, expected a multiple of 16")
    if bias is not None:
        checks.tensor(op, its_bias, bias, WIDE, (N,), aligned=False)
    checks.device(op, gemm.NEEDS, x, w, *([bias] if bias is not None else []))
    if turned and N % 16:
        raise ValueError(f"{op}: {name} has {N} outputs, expected a multiple of 16 for the gradient of x")
