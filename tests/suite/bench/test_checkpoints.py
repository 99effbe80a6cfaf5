"""A checkpoint given to the benchmarks: loaded by its architecture, its values compared without any name table."""

from __future__ import annotations

import pytest
import torch
from v3bench.baselines.dense import Dense
from v3bench.suite.bench import checkpoints


def test_the_loader_is_chosen_by_architecture_and_values_survive(folder):
    model = checkpoints.load(folder, dtype=torch.float32, device="cpu")
    assert isinstance(model, Dense)
    checkpoints.compare(folder, model)


def double(weight):
    weight.mul_(2)


def lose(weight):
    weight[-1].zero_()


def swap_sign(weight):
    weight[0, :2] = -weight[0, :2]


@pytest.mark.parametrize("change", [double, lose, swap_sign])
def test_values_lost_or_changed_are_found(folder, change):
    model = checkpoints.load(folder, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        change(model.layers[1].ffn.w_down)
    with pytest.raises(AssertionError, match="of all values is"):
        checkpoints.compare(folder, model)
