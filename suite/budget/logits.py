"""What a recipe does to a model's predictions: divergence, changed choices, perplexity."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Shift(NamedTuple):
    """Of logits against exact ones, over all positions."""

    kl: float  # mean KL divergence of the distribution from the exact one, nats
    top1_flips: float  # share of positions whose most likely token is another
    perplexity: float
    perplexity_exact: float

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity over the exact one."""
        return self.perplexity / self.perplexity_exact


def shift(got: Tensor, want: Tensor, tokens: Tensor) -> Shift:
    """got and want (B, S, W) logits, tokens (B, S) what truly follows each position. In float64."""
    p, q = (F.log_softmax(logits.double().flatten(0, -2), dim=-1) for logits in (want, got))
    kl = (p.exp() * (p - q)).sum(-1)
    true = tokens.flatten()
    return Shift(
        kl=float(kl.mean()),
        top1_flips=float((p.argmax(-1) != q.argmax(-1)).double().mean()),
        perplexity=float(F.nll_loss(q, true).exp()),
        perplexity_exact=float(F.nll_loss(p, true).exp()),
    )
