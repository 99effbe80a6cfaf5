"""Choosing tokens from logits, and judging drafts so that what comes out is distributed as the model says.

    Sampling        how tokens are chosen: a value
    draw            tokens by weight
    accepts         the rule of speculative sampling (arXiv 2211.17192, algorithm 1)
    judged          drafts verified: how many are good, and the tokens that they lead to

B rows  D drafts of a step  W vocab_size
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from v3bench.model_ref.errors import BadInput

LEAST = 1e-6  # of temperatures above 0: by less, float32 cannot divide


@dataclass(frozen=True)
class Sampling:
    """Tokens with probability softmax(logits / temperature); temperature 0 is greedy. Raises BadInput."""

    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not LEAST <= self.temperature < math.inf:
            raise BadInput(
                f"temperature is {self.temperature}", where="sampling", right=f"0 (greedy) or {LEAST} and more"
            )
        if not 0 <= self.seed < 2**63:
            raise BadInput(f"seed is {self.seed}", where="sampling", right="0 or more, below 2**63")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, without chance."""
        return self.temperature == 0

    def generator(self, device: torch.device) -> torch.Generator:
        """Random numbers from the seed on."""
        return torch.Generator(device).manual_seed(self.seed)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of every token, in at least float32; not for temperature 0."""
        z = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return ((z - z.amax(dim=-1, keepdim=True)) / self.temperature).softmax(dim=-1)

    def choose(self, logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """logits (..., W) -> tokens (...), and their distribution (..., W), None where greedy."""
        if self.greedy:
            return logits.argmax(dim=-1), None
        p = self.probabilities(logits)
        return draw(p, generator), p


GREEDY = Sampling()


def draw(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens (...) with probability in proportion to ``weights`` (..., W), without waiting for the device.

    The least of exponential waiting times of rates w is w's own with probability w / sum; torch.multinomial does the
    same, but asks the device whether the weights are right.
    """
    return (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(dim=-1)


def accepts(p: Tensor, q: Tensor, drafts: Tensor, u: Tensor) -> Tensor:
    """Which drafts (B, D) are taken: each with probability min(1, p/q); p, q (B, D, W), u (B, D) uniform in [0, 1)."""
    index = drafts.unsqueeze(-1)
    return u * q.gather(-1, index).squeeze(-1) < p.gather(-1, index).squeeze(-1)


def judged(
    logits: Tensor, drafts: Tensor, q: Tensor | None, sampling: Sampling, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Drafts (B, D), drawn from q (B, D, W), against the model's logits (B, 1+D, W) before and after each of them.

    -> tokens (B, 1+D), of which the first 1 + good are the row's next ones: the good drafts, then what the model says
    instead of the first bad one, or after the last; good (B).
    """
    D = drafts.shape[1]
    if q is None:  # greedy
        wanted = logits.argmax(dim=-1)
        return wanted, leading(drafts == wanted[:, :D])
    p = sampling.probabilities(logits)
    u = torch.rand(drafts.shape, device=p.device, dtype=p.dtype, generator=generator)
    good = leading(accepts(p[:, :D], q, drafts, u))
    rows = torch.arange(len(good), device=p.device)
    target = p[rows, good]  # (B, W)
    # Nothing was drafted behind the last draft: there the whole of p is left.
    drafted = torch.cat((q, torch.zeros_like(q[:, :1])), dim=1)[rows, good]
    rest = (target - drafted).clamp_(min=0)
    # Where p and q are equal but for rounding, nothing may be left; a draft is refused there as good as never.
    rest = torch.where(rest.amax(dim=-1, keepdim=True) > 0, rest, target)
    tokens = torch.cat((drafts, drafts[:, :1]), dim=1)
    tokens[rows, good] = draw(rest, generator)
    return tokens, good


def leading(flags: Tensor) -> Tensor:
    """How many flags (B, D) are set before the first that is not, (B)."""
    return flags.long().cumprod(dim=1).sum(dim=1)
