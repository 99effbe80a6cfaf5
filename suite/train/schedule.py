"""The learning rate of each step: a linear warm-up, then a cosine. Without torch, so that the report can say it."""

from __future__ import annotations

import math

LAST = 0.1  # of the highest rate, where a plan says nothing else


def rate_at(step: int, *, steps: int, rate: float, warmup: int = 0, last: float = LAST) -> float:
    """The rate of a step, counted from 0, of a run of ``steps``: up to ``rate``, then down to ``last`` of it."""
    if step < warmup:
        return rate * (step + 1) / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    return rate * (last + (1 - last) * (1 + math.cos(math.pi * share)) / 2)
