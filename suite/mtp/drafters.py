"""Drafters that know no network: what a trained one has to beat.

Each gives, for windows ids (N, S), what it drafts in the place of every token from those before it in the window,
int64 (N, S). Held against ``Scores.said``, from [:, D + 1 :] on. NGram.likeliest is one more.
"""

from __future__ import annotations

import torch
from torch import Tensor


def most_frequent(text: Tensor) -> int:
    """The most frequent token of the text trained on, (N): what to draft where nothing else is known."""
    return int(text.flatten().long().bincount().argmax())


def look_up(ids: Tensor, otherwise: int, longest: int = 3) -> Tensor:
    """What followed when the last tokens stood in the window before, the most recent time.

    The last 3 tokens, or the last 2, or the last 1, whichever is the longest run that stood there; ``otherwise`` where
    none did (prompt look-up: Saxena 2023).
    """
    drafts = torch.full_like(ids, otherwise)
    for n in range(1, min(longest, ids.shape[1] - 1) + 1):  # what a longer run says overwrites
        before = earlier(ids.unfold(1, n, 1))  # of the run that ends at position n - 1, and on
        row, run = (before >= 0).nonzero(as_tuple=True)
        inside = run + n < ids.shape[1]  # the last run is followed by nothing
        row, run = row[inside], run[inside]
        drafts[row, run + n] = ids[row, before[row, run] + n]
    return drafts


def earlier(runs: Tensor) -> Tensor:
    """Of each run (N, M, n) the latest equal one before it in its row, int64 (N, M); -1 where there is none."""
    N, M = runs.shape[:2]
    keys = runs.flatten(0, 1).unique(dim=0, return_inverse=True)[1].view(N, M)
    ordered, order = keys.sort(dim=1, stable=True)  # equal ones side by side, in their order
    same = ordered[:, 1:] == ordered[:, :-1]
    return torch.full_like(order, -1).scatter_(1, order[:, 1:], torch.where(same, order[:, :-1], -1))
