"""What the head says of states, with its rows in bands: no logits of the whole vocabulary are ever held.

T positions  D hidden_size  W vocab_size
"""

from __future__ import annotations

import torch
from torch import Tensor
from v3bench.kernels.ops import Ops


class Scores:
    """Of states (..., D) and the tokens wanted after them (...): the likeliest token and the loss, band by band."""

    def __init__(self, states: Tensor, wanted: Tensor, ops: Ops, rows: int) -> None:
        self.shape, self.ops, self.rows = wanted.shape, ops, rows
        self.states, self.wanted = states.flatten(0, -2), wanted.to(states.device).flatten()
        self.token = torch.zeros_like(self.wanted)
        self.best = torch.full(self.wanted.shape, -torch.inf, dtype=torch.float64, device=states.device)
        self.total = self.best.clone()  # logarithm of the sum of exponentials
        self.own = self.best.clone()  # the logit of the wanted token

    def add(self, first: int, w: Tensor) -> None:
        """Rows ``first`` and on of the head, w (rows, D); bands come in order."""
        for begin in range(0, len(self.wanted), self.rows):
            at = slice(begin, begin + self.rows)
            logits = self.ops.linear(self.states[at], w, site="head")
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # as token_loss
            best, token = wide.max(dim=-1)
            better = best.double() > self.best[at]  # the first of equals, as argmax has it
            self.token[at] = torch.where(better, token + first, self.token[at])
            self.best[at] = torch.where(better, best.double(), self.best[at])
            self.total[at] = torch.logaddexp(self.total[at], wide.logsumexp(dim=-1).double())
            local = self.wanted[at] - first
            inside = (local >= 0) & (local < len(w))
            own = wide.gather(1, local.clamp(0, len(w) - 1)[:, None])[:, 0].double()
            self.own[at] = torch.where(inside, own, self.own[at])

    @property
    def likeliest(self) -> Tensor:
        """int64 (...), on the CPU."""
        return self.token.view(self.shape).cpu()

    @property
    def loss(self) -> Tensor:
        """Nats of each wanted token, float64 (...), on the CPU."""
        nats: Tensor = self.total - self.own
        return nats.view(self.shape).cpu()
