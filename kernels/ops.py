"""Sets of implementations: which function computes each operation is a value, given to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from v3bench.kernels import attention, block_quant, experts, ffn, linear, mla_decode, norm, norm_linear, rotate, route


@dataclass(frozen=True)
class Ops:
    """One function per operation; the module of the same name has its definition and shapes."""

    name: str
    linear: Callable[..., Tensor]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    norm_linear: Callable[..., tuple[Tensor, ...]]
    rotate: Callable[..., Tensor]
    attention: Callable[..., Tensor]
    mla_decode: Callable[..., Tensor]
    ffn: Callable[..., Tensor]
    experts: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    route: Callable[[Tensor, Tensor | None, route.Plan], route.Routing]
    dequantize: Callable[..., Tensor]


TORCH = Ops(
    "torch",
    linear=linear.linear,
    rms_norm=norm.rms_norm,
    norm_linear=norm_linear.norm_linear,
    rotate=rotate.rotate,
    attention=attention.attention,
    mla_decode=mla_decode.mla_decode,
    ffn=ffn.ffn,
    experts=experts.experts,
    route=route.route,
    dequantize=block_quant.dequantize,
)

REFERENCE = Ops(
    "reference",
    linear=linear.reference,
    rms_norm=norm.reference,
    norm_linear=norm_linear.reference,
    rotate=rotate.reference,
    attention=attention.reference,
    mla_decode=mla_decode.reference,
    ffn=ffn.reference,
    experts=experts.reference,
    route=route.reference,
    dequantize=block_quant.reference,
)
