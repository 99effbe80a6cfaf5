"""Root-mean-square normalisation (the RMSNorm of every block, and of the latents of MLA).

reference   the definition
rms_norm    launcher: torch's own fused operation
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D), weight (D) -> x / rms(x) * weight, computed in at least float32, returned in x's dtype."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    rms = (wide.square().mean(-1, keepdim=True) + eps).sqrt()
    return (wide / rms).to(x.dtype) * weight


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``reference``."""
    return F.rms_norm(x, weight.shape, weight, eps)
