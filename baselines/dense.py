"""The dense baseline: Llama-3.1 and Qwen-2.5, with MHA, GQA or MQA and an optional sliding window.

Norm, RoPE, cache and operations are the reference model's; what differs is attention that caches whole keys and
values, and one feed-forward network for every token.

B batch  S new tokens  L cached tokens, the new ones included  D hidden_size  H num_attention_heads
J num_key_value_heads  d head_dim  F intermediate_size  W vocab_size
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from v3bench.baselines.config import DenseConfig
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.decoder import Decoder, token_loss
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.moe import FFN
from v3bench.model_ref.norm import RMSNorm
from v3bench.model_ref.rope import Rope


class Loss(NamedTuple):
    """Scalars; a dense model has neither further tokens nor experts, so both parts are 0 and total = main."""

    total: Tensor
    main: Tensor
    mtp: Tensor
    balance: Tensor


class Dense(Decoder):
    """input_ids (B, S) int64 -> logits (B, S, W). Initialised at once, except on "meta"."""

    config: DenseConfig

    def __init__(
        self,
        config: DenseConfig,
        *,
        ops: Ops = TORCH,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        D, W = config.hidden_size, config.vocab_size
        self.embed = nn.Embedding(W, D, device=device, dtype=dtype)
        self.layers = nn.ModuleList(
            Block(config, ops, window=config.window(i), device=device, dtype=dtype)
            for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(D, config.rms_norm_eps, ops, device=device, dtype=dtype)
        tied = config.tie_word_embeddings
        self.head = None if tied else nn.Linear(D, W, bias=False, device=device, dtype=dtype)
        self.rope = Rope(config, config.head_dim)
        self.entry = (2 * config.num_key_value_heads, config.head_dim)
        if self.embed.weight.device.type != "meta":
            self.reset_parameters()

    def run(self, input_ids: Tensor, cache: Cache | None) -> Tensor:
        """All blocks over the new tokens and, with a cache, the tokens in it: states after the final norm (B, S, D)."""
        h: Tensor = self.embed(input_ids)  # (B, S, D)
        turns = self.turns(h, cache)
        for i, layer in enumerate(self.layers):
            h = layer(h, turns, cache, i)
        if cache is not None:
            cache.advance(input_ids.shape[1])
        h = self.norm(h)
        return h

    def loss(self, input_ids: Tensor) -> Loss:
        """Next-token loss on input_ids (B, T+1). Raises BadInput for fewer than two tokens."""
        if input_ids.shape[1] < 2:
            raise BadInput(f"{input_ids.shape[1]} tokens", where="loss", right="at least 2")
        main = token_loss(self(input_ids[:, :-1]), input_ids[:, 1:])
        none = torch.zeros_like(main)
        return Loss(main, main, none, none)


class Block(nn.Module):
    """h (B, S, D) -> (B, S, D): attention, then the feed-forward network, each normalised before."""

    def __init__(
        self,
        config: DenseConfig,
        ops: Ops,
        *,
        window: int | None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        D, eps = config.hidden_size, config.rms_norm_eps
        self.attn_norm = RMSNorm(D, eps, ops, device=device, dtype=dtype)
        self.attn = Attention(config, ops, window=window, device=device, dtype=dtype)
        self.ffn_norm = RMSNorm(D, eps, ops, device=device, dtype=dtype)
        self.ffn = FFN(D, config.intermediate_size, ops, bias=config.mlp_bias, device=device, dtype=dtype)

    def forward(self, h: Tensor, turns: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        h = h + self.attn(h, self.attn_norm, turns, cache, layer)
        out: Tensor = h + self.ffn(h, norm=self.ffn_norm)
        return out


class Attention(nn.Module):
    """Grouped-query attention, h (B, S, D) -> (B, S, D); J = H is multi-head, J = 1 multi-query attention.

    The cache holds every token's keys and values, also in a layer whose ``window`` is shorter: only then can it be
    cut back to any length.
    """

    def __init__(
        self,
        config: DenseConfig,
        ops: Ops,
        *,
        window: int | None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.ops, self.window = config, ops, window
        D, H, J, d = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.w_qkv = weight((H + 2 * J) * d, D)  # queries, keys, values
        self.b_qkv = weight((H + 2 * J) * d) if config.qkv_bias else None
        self.w_o = weight(D, H * d)
        self.b_o = weight(D) if config.attention_bias else None

    def forward(self, h: Tensor, norm: RMSNorm, turns: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        """Causal attention over the normalised h, and over the cache's tokens before it; ``turns`` (.., S, 1, d/2)."""
        H, J, S = self.config.num_attention_heads, self.config.num_key_value_heads, h.shape[1]
        (qkv,) = norm.linears(h, (self.w_qkv,), (self.b_qkv,))
        qk, v = qkv.unflatten(-1, (H + 2 * J, -1)).split([H + J, J], dim=2)
        q, k = self.ops.rotate(qk, turns, interleaved=False).split([H, J], dim=2)
        lengths = None
        if cache is not None:
            seen = cache.append(layer, k, v)  # (B, L, 2J, d)
            lengths = None if cache.uniform else cache.lengths + S
            if cache.longest:
                k, v = self.in_reach(seen, S, cache.uniform).split(J, dim=2)
        u = self.ops.attention(
            q, k, v, scale=self.config.head_dim**-0.5, causal=True, window=self.window, lengths=lengths
        )
        return self.ops.linear(u.flatten(-2), self.w_o, self.b_o, site="w_o")

    def in_reach(self, seen: Tensor, S: int, uniform: bool) -> Tensor:
        """Of the cached (B, L, 2J, d) the last tokens, which the S new ones' window reaches."""
        if self.window is None or not uniform:
            return seen
        return seen[:, -(S + self.window - 1) :]
