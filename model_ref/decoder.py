"""What every decoder does alike: prefill and decoding over a cache, logits, next-token loss, initial weights.

B batch  S new tokens  D hidden_size  W vocab_size
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from v3bench.kernels.ops import Ops
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.config import ModelConfig
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.rope import Rope


def token_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, S, W) against the tokens ``wanted`` (B, S), in nats.

    In at least float32: bfloat16 keeps fewer digits than two trainings differ by.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), wanted.flatten())


class Decoder(nn.Module):
    """input_ids (B, S) int64 -> logits (B, S, W). A subclass makes the parts and says how they ``run``."""

    config: ModelConfig
    ops: Ops
    embed: nn.Embedding
    layers: nn.ModuleList
    head: nn.Linear | None  # None: the embedding is the head too
    rope: Rope
    entry: tuple[int, ...]  # what one layer caches of one token

    def run(self, input_ids: Tensor, cache: Cache | None) -> Tensor:
        """All blocks over the new tokens and, with a cache, the tokens in it: states after the final norm (B, S, D)."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of every position, (B, S, W)."""
        return self.logits(self.hidden(input_ids))

    def hidden(self, input_ids: Tensor) -> Tensor:
        """States after the final norm, (B, S, D)."""
        return self.run(input_ids, None)

    def logits(self, h: Tensor) -> Tensor:
        """h (B, S, D) after a final norm -> (B, S, W)."""
        w = self.embed.weight if self.head is None else self.head.weight
        return self.ops.linear(h, w, site="head")

    @torch.no_grad()
    def prefill(
        self, input_ids: Tensor, *, lengths: Tensor | Sequence[int] | None = None, capacity: int | None = None
    ) -> tuple[Tensor, Cache]:
        """Logits (B, S, W) and the filled cache, without gradients.

        Rows shorter than S are padded on the right, with any token, and give their own ``lengths`` (B).
        """
        B, S = input_ids.shape
        cache = self.new_cache(B, capacity or S)
        logits = self.logits(self.run(input_ids, cache))
        if lengths is not None:
            cache.truncate(lengths)
        return logits, cache

    @torch.no_grad()
    def decode(self, ids: Tensor, cache: Cache) -> Tensor:
        """ids (B, n), the next n tokens of every row -> logits (B, n, W); the cache grows by n in place."""
        if ids.ndim != 2 or ids.shape[0] != cache.batch:
            raise BadInput(f"ids of shape {tuple(ids.shape)}", where="decode", right=f"({cache.batch}, n)")
        return self.logits(self.run(ids, cache))

    def new_cache(self, batch: int, capacity: int, *, grows: bool = True) -> Cache:
        """An empty cache of all layers."""
        return self.cache_of(len(self.layers), batch, capacity, grows)

    def cache_of(self, layers: int, batch: int, capacity: int, grows: bool) -> Cache:
        """An empty cache, (batch, capacity, *entry) per layer."""
        like = self.embed.weight
        return Cache(layers, batch, capacity, self.entry, device=like.device, dtype=like.dtype, grows=grows)

    def turns(self, h: Tensor, cache: Cache | None) -> Tensor:
        """RoPE's turns of the new tokens h (B, S, D), the same for every head.

        (S, 1, R/2), or (B, S, 1, R/2) where rows stand at different positions. Makes room for them in the cache.
        """
        S = h.shape[1]
        if cache is not None:
            cache.reserve(S)
        if cache is None or cache.uniform:
            return self.rope.run(0 if cache is None else cache.longest, S, h).unsqueeze(-2)
        positions = cache.lengths[:, None] + torch.arange(S, device=h.device)
        return self.rope.at(positions, cache.longest + S, h).unsqueeze(-2)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Matrices normal with std config.initializer_range, norms one, biases zero."""
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif parameter.ndim == 1:
                parameter.zero_()
            else:
                parameter.normal_(std=self.config.initializer_range, generator=generator)
