"""The matrix products of a decoder's layers: x W' + b. Head, router and the absorbed products of MLA stay outside.

reference   the definition
linear      launcher: torch's own; fp8_linear.py has the form in FP8
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reference(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """x (..., K), w (N, K), b (N) or None -> (..., N)."""
    y = (x.unsqueeze(-2) * w).sum(-1)
    return y if b is None else y + b


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """As ``reference``."""
    return F.linear(x, w, b)
