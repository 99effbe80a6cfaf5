"""Multi-token prediction (V3 report, section 2.2, eq. 21-25).

Module k predicts, for position i, token t_{i+k+1} from the state h_i of depth k-1 and the embedding of t_{i+k}.
Embedding and head are the main model's. As in the released weights the embedding half comes first in eq. 21,
and the state that goes on to depth k+1 is the one after the module's own final norm.

B batch  S positions  D hidden_size
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from v3bench.kernels.ops import Ops
from v3bench.kernels.route import Routing
from v3bench.model_ref.block import Block
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.config import Config
from v3bench.model_ref.decoder import token_loss
from v3bench.model_ref.norm import RMSNorm


class MTP(nn.Module):
    """One module: h (B, S, D) of depth k-1 and e (B, S, D), embeddings of the tokens k further -> h of depth k."""

    def __init__(
        self, config: Config, ops: Ops, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        D, eps = config.hidden_size, config.rms_norm_eps
        self.enorm = RMSNorm(D, eps, ops, device=device, dtype=dtype)
        self.hnorm = RMSNorm(D, eps, ops, device=device, dtype=dtype)
        self.eh_proj = nn.Linear(2 * D, D, bias=False, device=device, dtype=dtype)
        self.block = Block(config, ops, sparse=config.mtp_is_moe, device=device, dtype=dtype)
        self.norm = RMSNorm(D, eps, ops, device=device, dtype=dtype)
        self.linear = ops.linear

    def forward(
        self,
        h: Tensor,
        e: Tensor,
        turns: Tensor,
        cache: Cache | None = None,
        layer: int = 0,
        routings: list[Routing] | None = None,
    ) -> Tensor:
        out: Tensor = self.norm(self.block(self.joined(h, e), turns, cache, layer, routings))  # (B, S, D)  eq. 22
        return out

    def joined(self, h: Tensor, e: Tensor) -> Tensor:
        """What the block reads, (B, S, D)."""
        both = torch.cat((self.enorm(e), self.hnorm(h)), dim=-1)  # (B, S, 2D)
        out: Tensor = self.linear(both, self.eh_proj.weight, site="eh_proj")  # eq. 21
        return out


def mtp_loss(logits: list[Tensor], input_ids: Tensor) -> Tensor:
    """The mean of eq. 24 over the depths (eq. 25 without lambda); zero without modules.

    logits of depth k = 1, 2, ... (B, T-k, W); input_ids (B, T+1). Each depth's sum is divided by T, as printed, though
    it has only T-k terms. In at least float32.
    """
    T = input_ids.shape[1] - 1
    losses = []
    for k, predicted in enumerate(logits, start=1):
        wanted = input_ids[:, k + 1 :]  # t_{2+k}, ..., t_{T+1}
        losses.append(token_loss(predicted, wanted) * (T - k) / T)
    return torch.stack(losses).mean() if losses else torch.zeros((), device=input_ids.device)
