"""Contenders of one case on a GPU: entered, timed in turns under telemetry, and what became of each.

Instruments   how this GPU is captured, timed and watched; tests put their own in its place
compete       the samples of those that ran, and why the others did not
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol, Self

from v3bench.suite.meter import graph
from v3bench.suite.meter.clock import Clock, Cold, Steady
from v3bench.suite.meter.contender import Call, Contender, in_one_line
from v3bench.suite.meter.measure import MOST_VOID, Effort, watched
from v3bench.suite.meter.telemetry import Snapshot, Telemetry, told

BUSY = 5e-3  # seconds of untimed launches behind which the GPU is looked at: NVML's answers take a millisecond or so
LEAST_ENERGY = 1.0  # seconds of launches, below which the energy counter is too coarse


class Entry(Protocol):
    """What a contender was made into: a graph, or one call at a time."""

    launches: int

    def replay(self) -> object: ...

    def release(self) -> None: ...


@dataclass
class Single:
    """One launch at a time, of the next buffer set: what is timed with a cold L2."""

    rotation: graph.Rotation
    launches: int = 1

    def replay(self) -> object:
        return self.rotation()

    def release(self) -> None:
        """Nothing is held."""


@dataclass
class Instruments:
    """``capture`` makes hot entries; ``hot`` and ``cold`` are the clocks; ``telemetry`` is None without NVML."""

    capture: Callable[[Sequence[Call]], Entry]
    hot: Callable[[], Clock]
    cold: Callable[[], Clock]
    synchronize: Callable[[], object]
    telemetry: Telemetry | None
    now: Callable[[], float] = perf_counter

    @classmethod
    def of_gpu(cls) -> Self:
        """Those of torch's current GPU."""
        import torch

        properties = torch.cuda.get_device_properties()
        flushed = graph.FLUSH * graph.l2_bytes(properties)
        return cls(
            capture=graph.capture, hot=Steady, cold=lambda: Cold(flushed),
            synchronize=torch.cuda.synchronize, telemetry=Telemetry.open(str(properties.uuid)),
        )  # fmt: skip


@dataclass
class Outcome:
    """By series: seconds of one launch, snapshots under its load, joules of one launch, or its fate and why."""

    samples: dict[str, tuple[float, ...]] = field(default_factory=dict)
    snapshots: dict[str, list[Snapshot]] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)
    fates: dict[str, tuple[str, str]] = field(default_factory=dict)
    void: list[str] = field(default_factory=list)  # why each repeated round was void
    others: int | None = None  # other processes that compute on the GPU

    def told(self, series: str) -> dict[str, Any]:
        """The telemetry of a series for extra_info."""
        table = told(self.snapshots.get(series, []))
        return {**table, "repeated_rounds": len(self.void), "void": sorted(set(self.void)), "others": self.others}


def compete(
    contenders: Mapping[str, Contender], effort: Effort, tools: Instruments, *, cold: bool = False, energy: bool = False
) -> Outcome:
    """Time them A-B-B-A, hot or each launch with a cold L2; with ``energy``, the joules of each over a second besides.

    One that is missing is skipped; one that cannot be captured, or raises, has failed; the others go on without it.
    """
    outcome = Outcome()
    entries = enter(contenders, tools, outcome, cold)
    seen = {series: outcome.snapshots.setdefault(series, []) for series in entries}
    clock = tools.cold() if cold else tools.hot()
    runs = {series: entry.replay for series, entry in entries.items()}
    taken = watched(runs, clock, effort, lambda series: look(entries[series], tools, seen[series]))
    outcome.void = taken.void
    outcome.fates |= {series: ("failed", why) for series, why in taken.failed.items()}
    for series, seconds in taken.samples.items():
        if not seconds or (len(taken.void) > MOST_VOID and len(seconds) < effort.fewest):
            why = taken.void[-1] if taken.void else "no round was taken"
            outcome.fates[series] = ("failed", f"throttled in {len(taken.void)} rounds, {len(seconds)} are left: {why}")
        else:
            outcome.samples[series] = tuple(second / entries[series].launches for second in seconds)
    if tools.telemetry is not None:
        outcome.others = tools.telemetry.others()
        for series, samples in outcome.samples.items() if energy and not cold else ():
            with suppress(Exception):  # the times are taken; they stand
                joules = energy_per_launch(entries[series], samples, tools, tools.telemetry)
                if joules is not None:
                    outcome.energy[series] = joules
    for entry in entries.values():
        with suppress(Exception):  # after a launch that broke the device, nothing of it can be freed
            entry.release()
    return outcome


def enter(contenders: Mapping[str, Contender], tools: Instruments, outcome: Outcome, cold: bool) -> dict[str, Entry]:
    """An entry for each contender that can have one; the fate of the others goes into the outcome."""
    entries: dict[str, Entry] = {}
    for series, contender in contenders.items():
        if contender.fate:
            outcome.fates[series] = contender.fate
            continue
        try:
            entries[series] = Single(graph.Rotation(contender.calls)) if cold else tools.capture(contender.calls)
        except graph.Uncapturable as error:
            outcome.fates[series] = ("failed", str(error)[:300])
        except Exception as error:  # whatever a kernel or its library raises is a result
            outcome.fates[series] = ("failed", in_one_line(error))
    return entries


def look(entry: Entry, tools: Instruments, seen: list[Snapshot]) -> str:
    """Take a snapshot while the entry's launches run untimed; why the round was void, or ""."""
    if tools.telemetry is None:
        return ""
    start = tools.now()
    entry.replay()
    tools.synchronize()
    for _ in range(min(1000, math.ceil(BUSY / max(tools.now() - start, 1e-6)))):
        entry.replay()
    snapshot = tools.telemetry.snapshot()
    tools.synchronize()
    seen.append(snapshot)
    return snapshot.void


def energy_per_launch(entry: Entry, samples: Sequence[float], tools: Instruments, telemetry: Telemetry) -> float | None:
    """Joules of one launch, the board's idle power included, over launches for ``LEAST_ENERGY`` seconds or more."""
    replays = math.ceil(1.1 * LEAST_ENERGY / (min(samples) * entry.launches))
    tools.synchronize()
    before, start = telemetry.energy(), tools.now()
    for _ in range(replays):
        entry.replay()
    tools.synchronize()
    after, seconds = telemetry.energy(), tools.now() - start
    if before is None or after is None or seconds < LEAST_ENERGY:
        return None
    return (after - before) / (replays * entry.launches)
