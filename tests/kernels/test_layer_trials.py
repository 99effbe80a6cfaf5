"""What a layer runs as one, against float64: a product with its quantisation, the masked experts' network."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from v3bench.suite.trials.check import check, seeded
from v3bench.suite.trials.registry import load

CASES = [(op, shape) for op in ("fp8_linear", "masked_mlp") for shape in load(op).small]


@pytest.mark.parametrize(("op", "shape"), CASES, ids=str)
def test_is_the_definition_within_its_bar(op: str, shape: dict[str, int]) -> None:
    trial = load(op)
    inputs = seeded(trial, shape, "cpu")
    ours = partial(trial.ours, config=trial.small_config) if trial.small_config else trial.ours
    assert check(trial, inputs, ours, repeats=1) <= 1


@pytest.mark.parametrize("op", ["fp8_linear", "masked_mlp"])
def test_the_bar_sees_coarser_scales(op: str) -> None:
    """Weights whose first block has half its scale: one block of many, and no result."""
    trial = load(op)
    inputs = seeded(trial, trial.small[0], "cpu")
    want, name = trial.oracle(**inputs), "w_scales" if op == "fp8_linear" else "down_scales"
    scales = inputs[name].clone()
    scales.view(-1)[0] *= 0.5
    wrong = trial.oracle(**{**inputs, name: scales}).to(torch.bfloat16)
    assert trial.error(wrong, want, inputs) > 1
    assert trial.error(want.to(torch.bfloat16), want, inputs) <= 1
