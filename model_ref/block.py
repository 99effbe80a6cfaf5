"""One transformer block: attention, then a feed-forward network, each normalised before and added to its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from v3bench.kernels.ops import Ops
from v3bench.kernels.route import Routing
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.config import Config
from v3bench.model_ref.mla import MLA
from v3bench.model_ref.moe import FFN, MoE
from v3bench.model_ref.norm import RMSNorm


class Block(nn.Module):
    """h (B, S, D) -> (B, S, D); ``sparse`` blocks have DeepSeekMoE in place of the dense network."""

    def __init__(
        self,
        config: Config,
        ops: Ops,
        *,
        sparse: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        D, eps = config.hidden_size, config.rms_norm_eps
        self.attn_norm = RMSNorm(D, eps, ops, device=device, dtype=dtype)
        self.attn = MLA(config, ops, device=device, dtype=dtype)
        self.ffn_norm = RMSNorm(D, eps, ops, device=device, dtype=dtype)
        self.ffn: MoE | FFN
        if sparse:
            self.ffn = MoE(config, ops, device=device, dtype=dtype)
        else:
            self.ffn = FFN(D, config.intermediate_size, ops, device=device, dtype=dtype)

    def forward(
        self,
        h: Tensor,
        turns: Tensor,
        cache: Cache | None = None,
        layer: int = 0,
        routings: list[Routing] | None = None,
    ) -> Tensor:
        h = h + self.attn(h, self.attn_norm, turns, cache, layer)
        out: Tensor = h + self.ffn(h, routings, self.ffn_norm)
        return out
