"""Timing candidates: the fastest right one wins; a wrong or broken one is said and left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from v3bench.suite.trials.trial import Inputs, Trial
from v3bench.suite.trials.tuning import timed


def double(x: torch.Tensor, config: dict[str, int]) -> torch.Tensor:
    """Twice x, wrong for n = 1, broken for n = 2."""
    if config["n"] == 2:
        raise RuntimeError("out of resource\nand more")
    return x * (2.0 if config["n"] != 1 else 2.1)


def apart(got: torch.Tensor, want: torch.Tensor, inputs: Inputs) -> float:
    return float((got - want).abs().max() / 1e-3)


TRIAL = Trial(
    op="double",
    calling="",
    inputs=lambda shape, device: {"x": torch.randn(8)},
    ours=double,
    oracle=lambda x: 2 * x,
    error=apart,
)


def test_only_right_candidates_are_timed() -> None:
    seconds = {0: 5.0, 3: 4.0, 4: 9.0}
    said: list[str] = []
    captured: list[int] = []

    def capture(calls: Sequence[Callable[[], object]]) -> tuple[Callable[[], object], int]:
        n = calls[0].keywords["config"]["n"]  # type: ignore[attr-defined]
        captured.append(n)
        assert len(calls) == 2
        return lambda: n, 2

    asked: list[torch.Tensor] = []

    def oracle(x: torch.Tensor) -> torch.Tensor:
        asked.append(x)
        return 2 * x

    configs = [{"n": n} for n in range(5)]
    sets = [TRIAL.inputs({}, "cpu") for _ in range(2)]
    times = timed(replace(TRIAL, oracle=oracle), sets, configs, capture, lambda run: seconds[run()], said.append)  # type: ignore[index]
    assert captured == [0, 3, 4]
    assert len(asked) == 1  # float64 once, and not for every candidate
    assert times == {0: 2.5, 3: 2.0, 4: 4.5}
    assert said[0].startswith("    {'n': 1}: wrong,")
    assert said[1] == "    {'n': 2}: RuntimeError: out of resource"


def test_nothing_right_gives_no_times() -> None:
    def never(calls: object) -> tuple[Callable[[], object], int]:
        pytest.fail("captured")

    assert timed(TRIAL, [TRIAL.inputs({}, "cpu")], [{"n": 1}], never, lambda run: 0.0, lambda line: None) == {}
