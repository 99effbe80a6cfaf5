"""The operations of a decoder on Triton's kernels, as values for a model: Model(config, ops=TRITON).

    TRITON    BF16 products by torch's own GEMMs, everything else by this project's kernels
    fp8()     the layers' and the experts' products in FP8 too (V3 report, section 3.3), norms and SwiGLU quantised in
              the pass that makes them; each set has its own weights

No launcher falls back to torch's forms: what a kernel does not take is an error that says so. The experts of TRITON are
for BF16, where torch has a grouped GEMM; in another dtype they are a loop that waits for the GPU.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from v3bench.kernels import experts, ffn, flash_attention, linear, norm_linear
from v3bench.kernels.dequantize import dequantize_blocks
from v3bench.kernels.fp8_experts import fp8_experts
from v3bench.kernels.fp8_ffn import fp8_ffn
from v3bench.kernels.fp8_linear import Quantizer, WeightCache, fp8_linear
from v3bench.kernels.fp8_norm_linear import fp8_norm_linear
from v3bench.kernels.gqa_decode import gqa_decode
from v3bench.kernels.norm_fused import rms_norm
from v3bench.kernels.operation import operation
from v3bench.kernels.ops import Ops
from v3bench.kernels.paged_mla import mla_decode
from v3bench.kernels.rotary import rotate
from v3bench.kernels.route_fused import route
from v3bench.kernels.swiglu_fused import swiglu

FEW = 4  # queries that read a cache faster when the keys are split among programs


@operation
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """As attention.reference: few queries over a cache by gqa_decode, everything else by flash_attention."""
    training = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if causal and not training and q.shape[1] <= FEW < k.shape[1]:
        return gqa_decode(q, k, v, scale=scale, window=window, lengths=lengths)
    out: Tensor = flash_attention.attention(q, k, v, scale=scale, causal=causal, window=window, lengths=lengths)
    return out


TRITON = Ops(
    "triton",
    linear=linear.linear,
    rms_norm=rms_norm,
    norm_linear=partial(norm_linear.composed, rms_norm=rms_norm, product=linear.linear),
    rotate=rotate,
    attention=attention,
    mla_decode=mla_decode,
    ffn=partial(ffn.composed, rms_norm=rms_norm, product=linear.linear, activation=swiglu),
    experts=partial(experts.grouped, activation=swiglu),
    route=route,
    dequantize=dequantize_blocks,
)


def fp8_product(x: Tensor, w: Tensor, b: Tensor | None = None, *, site: str = "", quantize: Quantizer) -> Tensor:
    """As linear.reference: in FP8, but for what stays out."""
    y: Tensor = linear.linear(x, w, b) if site in linear.HIGH else fp8_linear(x, w, b, quantize=quantize)
    return y


def fp8() -> Ops:
    """A new set with FP8 products; it keeps the codes of the weights it has seen while they do not change."""
    weights = WeightCache()
    return replace(
        TRITON,
        name="triton-fp8",
        linear=partial(fp8_product, quantize=weights),
        norm_linear=partial(fp8_norm_linear, quantize=weights),
        ffn=partial(fp8_ffn, quantize=weights),
        experts=partial(fp8_experts, quantize=weights),
    )
