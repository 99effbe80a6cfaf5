"""RMSNorm as a module: its weight, and the operations it is given."""

from __future__ import annotations

from collections.abc import Sequence

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
        self.eps, self.rms_norm, self.norm_linear = eps, ops.rms_norm, ops.norm_linear

    def forward(self, x: Tensor) -> Tensor:
        return self.rms_norm(x, self.weight, self.eps)

    def linears(
        self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, ...]:
        """The normalised x times each of the weights (N, D), with its bias: what nothing else reads need not exist."""
        return self.norm_linear(x, self.weight, self.eps, weights, biases)
