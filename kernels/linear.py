"""The matrix products of a decoder: x W' + b. The router and the absorbed products of MLA stay outside.

reference   the definition
linear      launcher: torch's own; fp8_linear.py has the form in FP8

``site`` is the weight's name where a recipe may treat its product apart: those in HIGH are never quantised (V3 report,
section 3.3.1), and what w_o reads, the output of attention, is kept in more bits for the backward pass (section 3.3.3).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

HIGH = frozenset({"head", "eh_proj"})


def reference(x: Tensor, w: Tensor, b: Tensor | None = None, *, site: str = "") -> Tensor:
    """x (..., K), w (N, K), b (N) or None -> (..., N)."""
    y = (x.unsqueeze(-2) * w).sum(-1)
    return y if b is None else y + b


def linear(x: Tensor, w: Tensor, b: Tensor | None = None, *, site: str = "") -> Tensor:
    """As ``reference``."""
    return F.linear(x, w, b)
