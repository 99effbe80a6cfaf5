"""SwiGLU: SiLU(gate) * up, the activation of every feed-forward network here.

reference   the definition
swiglu      launcher
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(gate_up: Tensor) -> Tensor:
    """gate_up (..., 2F), the gate half first -> (..., F); computed in at least float32, rounded once."""
    gate, up = gate_up.to(torch.promote_types(gate_up.dtype, torch.float32)).chunk(2, dim=-1)
    return (gate * torch.sigmoid(gate) * up).to(gate_up.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """As ``reference``."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
