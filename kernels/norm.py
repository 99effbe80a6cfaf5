"""Root-mean-square normalisation (the RMSNorm of every block, and of the latents of MLA).

reference   the definition
rms_norm    launcher: torch's own fused operation
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D), weight (D) -> x / rms(x) * weight, computed in at least float32, rounded once to x's dtype."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    rms = (wide.square().mean(-1, keepdim=True) + eps).sqrt()
    return (wide / rms * weight).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``reference``."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return F.rms_norm(x, weight.shape, weight, eps)
    return RMSNorm.apply(x, weight, eps) if torch.is_grad_enabled() else normalised(x, eps)[0].mul_(weight)


def normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x) and 1 / rms(x), in four passes where torch's own norm makes seven on a CPU."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = torch.addcmul(constant(eps, x.dtype), norm, norm, value=1 / x.shape[-1]).rsqrt_()
    return x * scale, scale


@cache
def constant(value: float, dtype: torch.dtype) -> Tensor:
    """The value as a tensor on the CPU, also while another device is the default."""
    return torch.tensor(value, dtype=dtype, device="cpu")


class RMSNorm(torch.autograd.Function):
    """With n = x / rms(x): the gradient of x is (g w - n mean(g w n)) / rms(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        n, scale = normalised(x, eps)
        ctx.save_for_backward(n, scale, weight)
        return n * weight

    @staticmethod
    @once_differentiable  # n and the scale are kept as values, which a second derivative would miss
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        n, scale, weight = ctx.saved_tensors
        along = grad * n
        dw = along.flatten(0, -2).sum(0)
        mean = along.mul_(weight).mean(-1, keepdim=True)
        return torch.addcmul(grad * weight, n, mean, value=-1).mul_(scale), dw, None
