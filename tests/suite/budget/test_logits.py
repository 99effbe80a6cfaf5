"""What a recipe does to predictions, on distributions whose divergence is known."""

from __future__ import annotations

import math

import pytest
import torch
from v3bench.suite.budget.logits import shift


def logits(*rows: tuple[float, ...]) -> torch.Tensor:
    """(1, S, W) whose softmax are these rows."""
    return torch.tensor(rows, dtype=torch.float64).log()[None]


def test_equal_logits_are_not_shifted():
    x = torch.randn(2, 3, 5)
    found = shift(x + 7, x, torch.zeros(2, 3, dtype=torch.int64))  # a constant changes no distribution
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert (found.top1_flips, found.perplexity_ratio) == (0, pytest.approx(1))


def test_divergence_flips_and_perplexity_of_two_positions():
    want, got = logits((0.5, 0.5 - 1e-9, 1e-9), (0.25, 0.5, 0.25)), logits((0.25, 0.75 - 1e-9, 1e-9), (0.25, 0.5, 0.25))
    found = shift(got, want, torch.tensor([[0, 1]]))
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert found.kl == pytest.approx(divergence / 2, abs=1e-6)
    assert found.top1_flips == 0.5
    assert found.perplexity == pytest.approx(1 / math.sqrt(0.25 * 0.5))
    assert found.perplexity_exact == pytest.approx(1 / math.sqrt(0.5 * 0.5))
