"""The parts of a step, taken back after every call."""

from __future__ import annotations

import pytest
import torch
from v3bench.suite.mtp.steps import Steps, from_parts, steps

from .small import model_of, windows


@pytest.mark.parametrize("rows", [1, 3])
def test_steps_are_taken_back(rows, monkeypatch):
    """However often a part runs, its caches stay as long as the context, so that all calls are the same."""
    model, ids = model_of(1), windows()[:rows]
    lengths = []
    real = model.run

    def run(ids, cache, routings=None):
        lengths.append((ids.shape[1], tuple(cache.host_lengths)))
        return real(ids, cache, routings)

    monkeypatch.setattr(model, "run", run)
    with torch.inference_mode():
        found = steps(model, ids, 2, 3, "cpu")
    assert {len(samples) for samples in vars(found).values()} == {3}
    L = ids.shape[1]
    assert set(lengths[2:]) == {(1, (L,) * rows), (3, tuple(L - n % 2 for n in range(rows)) if rows > 1 else (L,))}
    assert found.cost("plain") == (1.0, 1.0, 1.0)
    costs = Steps(plain=(1.0, 2.0), verify=(1.5, 2.0), draft=(0.5, 1.0))
    assert from_parts(1.8, costs) == (1.8 / 2, 1.8 / 1.5)
