"""RMSNorm as a module: its weight, and the operation it is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from v3bench.kernels.ops import Ops


class RMSNorm(nn.Module):
    """x (..., D) -> (..., D)."""

    def __init__(
        self,
        dim: int,
        eps: float,
        ops: Ops,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.eps, self.rms_norm = eps, ops.rms_norm

    def forward(self, x: Tensor) -> Tensor:
        return self.rms_norm(x, self.weight, self.eps)
