"""Measure functions: callables and a clock in, samples out. No file, no pytest, no printing.

interleaved   all in turns; the first exception ends it
watched       the same on a GPU: a cycle that its watch finds void is repeated, who raises drops out
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from v3bench.suite.meter.clock import Clock
from v3bench.suite.meter.contender import in_one_line

Given = TypeVar("Given")
Result = TypeVar("Result")


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
# A sample is a graph of at least 200 us: a hundred cases with four contenders each have to end within minutes.
DEVICE_EFFORTS = {
    "smoke": Effort(rounds=6, warmup=1, seconds=0.1),
    "quick": Effort(rounds=20, warmup=2, seconds=0.2, fewest=10),
    "standard": Effort(rounds=40, warmup=3, seconds=0.4, fewest=30),
    "full": Effort(rounds=40, warmup=3, seconds=0.4, fewest=30),
}
MOST_VOID = 20  # cycles repeated before it is given up: with REST behind each, some seconds
REST = 0.2  # seconds; a GPU that is too hot cools by some degrees


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
    for cycle in cycles(effort, len(runs), now):
        for name in turn(list(runs), cycle):
            samples[name].append(clock(runs[name]))
    return {name: tuple(taken) for name, taken in samples.items()}


def cycles(effort: Effort, names: int, now: Callable[[], float]) -> Iterator[int]:
    """The numbers of the cycles to take, until rounds or seconds are used up."""
    start, budget = now(), effort.seconds * names
    for cycle in range(effort.rounds):
        if cycle and now() - start >= budget * (1 if cycle >= effort.fewest else PATIENCE):
            return
        yield cycle


def turn(names: list[Given], cycle: int) -> list[Given]:
    """The order of a cycle: A-B, then B-A."""
    return names if cycle % 2 == 0 else names[::-1]


@dataclass
class Taken:
    """What ``watched`` found. ``void``: why each repeated cycle was void; ``failed``: why a run dropped out."""

    samples: dict[str, list[float]]
    void: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, function: Callable[[Given], Result], given: Given) -> Result | None:
        """What the function gives, or None where it raises: the name then has failed, and no sample of it counts."""
        try:
            return function(given)
        except Exception as error:  # whatever a kernel or its library raises is a result
            self.failed[name] = in_one_line(error)
            del self.samples[name]
            return None


def watched(
    runs: Mapping[str, Callable[[], object]],
    clock: Clock,
    effort: Effort,
    watch: Callable[[str], str],
    *,
    most_void: int = MOST_VOID,
    rest: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Taken:
    """Interleaved as above. After each cycle ``watch(name)`` tells why it was void, or ""; names come in turn.

    All samples of a void cycle are dropped and the cycle is repeated after a rest, up to ``most_void`` times; then no
    more cycles are taken. A run that raises is left out from there on, and its samples are dropped.
    """
    taken = Taken({name: [] for name in runs})
    for _ in range(effort.warmup):
        for name in list(taken.samples):
            taken.attempt(name, clock, runs[name])
    for cycle in cycles(effort, len(runs), now):
        while taken.samples:
            tried = {name: taken.attempt(name, clock, runs[name]) for name in turn(list(taken.samples), cycle)}
            found = {name: seconds for name, seconds in tried.items() if seconds is not None}
            # Who is watched changes by cycle, so that every one is seen under its own load.
            seen = list(found)[cycle // 2 % len(found)] if found else None
            why = taken.attempt(seen, watch, seen) if seen is not None else ""
            if not why:
                for name in taken.samples:
                    taken.samples[name].append(found[name])
                break
            taken.void.append(why)
            if len(taken.void) > most_void:
                return taken
            rest(REST)
    return taken
