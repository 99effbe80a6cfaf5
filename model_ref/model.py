"""DeepSeek-V3 and V2: the whole model (V3 report, section 2).

B batch  S positions  D hidden_size  W vocab_size
Released checkpoints name the parameters differently; checkpoint_table.py maps the names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from v3bench.kernels.ops import TORCH, Ops
from v3bench.kernels.route import Routing
from v3bench.model_ref.block import Block
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.config import Config
from v3bench.model_ref.decoder import Decoder, token_loss
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.moe import MoE, balance_loss, expert_loads, update_bias
from v3bench.model_ref.mtp import MTP, mtp_loss
from v3bench.model_ref.norm import RMSNorm
from v3bench.model_ref.rope import Rope


class Loss(NamedTuple):
    """Scalars of at least float32, total = main + mtp_weight * mtp + balance_weight * balance.

    main and mtp are in nats per token; loads int64 (MoE blocks, E), MTP's last.
    """

    total: Tensor
    main: Tensor
    mtp: Tensor
    balance: Tensor
    loads: Tensor


class Model(Decoder):
    """input_ids (B, S) int64 -> logits (B, S, W).

    On a real device the parameters are initialised at once (``reset_parameters``); on "meta" nothing is, so that 671B
    parameters take no time and no memory.
    """

    config: Config

    def __init__(
        self,
        config: Config,
        *,
        ops: Ops = TORCH,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        mtp: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        D, W, dense = config.hidden_size, config.vocab_size, config.first_k_dense_replace
        modules = config.num_nextn_predict_layers if mtp else 0
        self.embed = nn.Embedding(W, D, device=device, dtype=dtype)
        self.layers = nn.ModuleList(
            Block(config, ops, sparse=i >= dense, device=device, dtype=dtype) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(D, config.rms_norm_eps, ops, device=device, dtype=dtype)
        tied = config.tie_word_embeddings
        self.head = None if tied else nn.Linear(D, W, bias=False, device=device, dtype=dtype)
        self.mtp = nn.ModuleList(MTP(config, ops, device=device, dtype=dtype) for _ in range(modules))
        self.rope = Rope(config, config.qk_rope_head_dim)
        self.entry = (config.kv_lora_rank + config.qk_rope_head_dim,)
        if self.embed.weight.device.type != "meta":
            self.reset_parameters()

    def hidden(self, input_ids: Tensor, routings: list[Routing] | None = None) -> Tensor:
        """States after the final norm, (B, S, D); ``routings`` collects what each MoE layer decided."""
        return self.run(input_ids, None, routings)

    def run(self, input_ids: Tensor, cache: Cache | None, routings: list[Routing] | None = None) -> Tensor:
        """All blocks over the new tokens and, with a cache, the tokens in it: states after the final norm (B, S, D)."""
        h: Tensor = self.embed(input_ids)  # (B, S, D)
        turns = self.turns(h, cache)
        for i, layer in enumerate(self.layers):
            h = layer(h, turns, cache, i, routings)
        if cache is not None:
            cache.advance(input_ids.shape[1])
        h = self.norm(h)
        return h

    def run_mtp(
        self, k: int, h: Tensor, ids: Tensor, cache: Cache | None, routings: list[Routing] | None = None
    ) -> Tensor:
        """MTP module k = 1, 2, ...: states h (B, S, D) of depth k-1, ids (B, S) the tokens k further -> of depth k."""
        e = self.embed(ids)  # (B, S, D)
        h = self.mtp[k - 1](h, e, self.turns(e, cache), cache, 0, routings)
        if cache is not None:
            cache.advance(ids.shape[1])
        return h

    def new_mtp_caches(self, batch: int, capacity: int) -> list[Cache]:
        """An empty cache of one layer for every MTP module."""
        return [self.cache_of(1, batch, capacity, True) for _ in self.mtp]

    def loss(self, input_ids: Tensor, *, mtp_weight: float = 1.0, balance_weight: float | None = None) -> Loss:
        """Training loss on input_ids (B, T+1): next token, further tokens (eq. 25), balance (eq. 17).

        ``mtp_weight`` is the paper's lambda, ``balance_weight`` its alpha (default: the config's aux_loss_alpha).
        """
        config = self.config
        B, T = input_ids.shape[0], input_ids.shape[1] - 1
        if len(self.mtp) >= T:
            raise BadInput(f"{T + 1} tokens", where="loss", right=f"at least {len(self.mtp) + 2}")
        routings: list[Routing] = []
        h = self.hidden(input_ids[:, :T], routings)
        main = token_loss(self.logits(h), input_ids[:, 1:])
        further = mtp_loss([self.logits(h_k) for h_k in self.further(h, input_ids, routings)], input_ids)
        plans = [block.gate.plan for block in self.moe_blocks()]
        balances = [
            balance_loss(routing, plan, B, per_sequence=config.seq_aux)
            for routing, plan in zip(routings, plans, strict=True)
        ]
        balance = torch.stack(balances).sum() if balances else torch.zeros_like(main)
        alpha = config.aux_loss_alpha if balance_weight is None else balance_weight
        loads = [expert_loads(routing.chosen, config.n_routed_experts) for routing in routings]
        none = torch.zeros(0, config.n_routed_experts, dtype=torch.int64, device=h.device)
        total = main + mtp_weight * further + alpha * balance
        return Loss(total, main, further, balance, torch.stack(loads) if loads else none)

    def further(self, h: Tensor, input_ids: Tensor, routings: list[Routing] | None = None) -> Iterator[Tensor]:
        """States of MTP depth k = 1, 2, ...: (B, T-k, D) from h (B, T, D) and input_ids (B, T+1)."""
        T = input_ids.shape[1] - 1
        for k in range(1, len(self.mtp) + 1):
            h = self.run_mtp(k, h[:, : T - k], input_ids[:, k:T], None, routings)
            yield h

    def moe_blocks(self) -> list[MoE]:
        """Every DeepSeekMoE, in the order of ``Loss.loads``: the layers', then the MTP modules'."""
        return [module for module in self.modules() if isinstance(module, MoE)]

    def update_biases(self, loads: Tensor, speed: float) -> None:
        """One step of auxiliary-loss-free balancing; ``loads`` as in Loss, ``speed`` the paper's gamma."""
        for block, load in zip(self.moe_blocks(), loads, strict=True):
            if block.gate.e_score_correction_bias is not None:
                update_bias(block.gate.e_score_correction_bias, load, speed)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Matrices normal with std config.initializer_range, norms one, biases zero."""
        super().reset_parameters(generator)
        for block in self.moe_blocks():
            if block.gate.e_score_correction_bias is not None:
                block.gate.e_score_correction_bias.zero_()
