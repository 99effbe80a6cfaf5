"""Measure functions: callables and a clock in, samples out. No file, no pytest, no printing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from v3bench.suite.meter.clock import Clock


@dataclass(frozen=True)
class Effort:
    """How much is measured: ``rounds`` samples after ``warmup`` calls, but fewer once ``seconds`` are used up.

    At least ``fewest`` are taken, below which the interval of a median has no 95 % (see statistics.py); on a machine
    so slow that they take ``PATIENCE`` times as long, fewer still.
    """

    rounds: int
    warmup: int
    seconds: float
    fewest: int = 6


PATIENCE = 4
EFFORTS = {
    "smoke": Effort(rounds=6, warmup=1, seconds=0.5),
    "quick": Effort(rounds=40, warmup=2, seconds=1.3),
    "standard": Effort(rounds=100, warmup=3, seconds=9.0),
    "full": Effort(rounds=100, warmup=3, seconds=9.0),
}
ONCE = Effort(rounds=1, warmup=0, seconds=0.0, fewest=1)


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    clock: Clock,
    effort: Effort,
    now: Callable[[], float] = time.monotonic,
) -> dict[str, tuple[float, ...]]:
    """Seconds of each run, by name: one sample of each per cycle, in the order A-B, then B-A, and so on.

    A drift of the machine (heat, a neighbour) thus falls on all of them alike, and the i-th samples of two
    names were taken side by side. The seconds of ``effort`` are per name, warm-up left out.
    """
    for _ in range(effort.warmup):
        for run in runs.values():
            clock(run)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    start, budget = now(), effort.seconds * len(runs)
    for cycle in range(effort.rounds):
        if cycle and now() - start >= budget * (1 if cycle >= effort.fewest else PATIENCE):
            break
        for name in list(runs) if cycle % 2 == 0 else list(runs)[::-1]:
            samples[name].append(clock(runs[name]))
    return {name: tuple(taken) for name, taken in samples.items()}
