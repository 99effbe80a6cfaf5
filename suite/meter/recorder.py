"""The fixtures ``record`` and ``timed``: what a benchmark calls with what it found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from v3bench.suite.ledger.cases import Case
from v3bench.suite.meter import clock as clocks
from v3bench.suite.meter.measure import Effort, interleaved
from v3bench.suite.meter.measurement import Clock, Measurement, Scale
from v3bench.suite.meter.scale import of_preset
from v3bench.suite.meter.session import Session


class Recorder:
    """Gathers the records of one benchmark item; they are written together once its function has returned."""

    def __init__(self, session: Session, case: Case, series: str, benchmark: Any, effort: Effort) -> None:
        self.session, self.case, self.series, self.benchmark, self.effort = session, case, series, benchmark, effort
        self.pending: list[Measurement] = []
        self.shown: tuple[float, ...] = ()
        self.started = time.perf_counter()

    def __call__(
        self,
        samples: Sequence[float],
        *,
        series: str = "",
        convention: str = "",
        precision: str = "",
        scale: Scale | None = None,
        clock: Clock = "none",
    ) -> None:
        """Keep one record of the case's metric, in SI units; of another series than the item's when named."""
        if clock != "none":
            self.passed()
        record = self.blank(
            series or self.series,
            scale,
            samples=tuple(samples),
            convention=convention,
            precision=precision,
            clock=clock,
        )
        self.pending.append(record)

    def blank(self, series: str, scale: Scale | None = None, **fields: Any) -> Measurement:
        """A record of a series of this case with everything that the session knows."""
        subject, _, impl = series.partition("/")
        case, plan = self.case, self.session.plan
        return Measurement(
            area=case.area, subject=subject, impl=impl, case=case.name, case_version=case.version, metric=case.metric,
            basis=case.basis, scale=scale or of_preset(subject), device=plan.device, launch=plan.launch, **fields,
        )  # fmt: skip

    def gate(self, check: Callable[[], object]) -> None:
        """Run a correctness check that must hold before anything of this case is timed; AssertionError is a failure."""
        try:
            outcome = check()
        except AssertionError as error:
            outcome = str(error) or "the correctness check failed"
        # A check may also return its verdict: False, or the reason in words.
        reason = outcome if isinstance(outcome, str) else "the correctness check failed" if outcome is False else ""
        self.session.gates[self.case.name] = reason or None
        if reason:
            pytest.fail(f"gate: {reason}", pytrace=False)

    def passed(self) -> None:
        """Fail unless this case's correctness check has passed in this process."""
        reason = self.session.gates.get(self.case.name, "no correctness check ran before the timing")
        if reason is not None:
            pytest.fail(f"gate: {reason}", pytrace=False)

    def timed(
        self,
        build: Callable[[], Mapping[str, Callable[[], object]]],
        *,
        per: int = 1,
        convention: str = "",
        precision: str = "",
    ) -> None:
        """Time all series of the case together, interleaved, once in a session; record the samples of each.

        ``build`` runs the gate and gives the callables, by series; a call does ``per`` of what a sample is of. The
        items of the other series find the samples taken, as does a resumed run.
        """
        name = self.case.name
        if name in self.session.spoiled:
            status, why = self.session.spoiled[name]
            if status == "skipped":
                pytest.skip(why)
            pytest.fail(why, pytrace=False)
        if name not in self.session.times:
            stored = {series: self.session.stored(self.case, series) for series in self.case.series}
            if all(stored.values()):
                self.session.times[name] = {series: found[-1].samples for series, found in stored.items()}
            else:
                self.session.times[name] = samples = self.measure(build(), per)
                clock = clocks.name_for(self.session.plan.device)
                for series, taken in samples.items():
                    self(taken, series=series, convention=convention, precision=precision, clock=clock)
        self.shown = self.session.times[name][self.series]

    def measure(self, runs: Mapping[str, Callable[[], object]], per: int) -> dict[str, tuple[float, ...]]:
        """Samples of every series, in seconds, once the gate has passed."""
        self.passed()
        if set(runs) != set(self.case.series):
            raise ValueError(f"case {self.case.name} has series {', '.join(self.case.series)}, not {', '.join(runs)}")
        taken = interleaved(runs, clocks.for_device(self.session.plan.device), self.effort)
        return {series: tuple(seconds / per for seconds in samples) for series, samples in taken.items()}

    def show(self) -> None:
        """Hand pytest-benchmark what was found: the samples as its rounds, or, for what is no time, how long it took.

        Only now, when the function has returned: a failure after the timing voids the entry too.
        """
        elapsed = time.perf_counter() - self.started
        # The records of a timed series may have been taken by the item before, or by the run that is resumed.
        taken = [*self.pending, *self.session.records, *self.session.stored(self.case, self.series)]
        own = [m for m in taken if (m.case, f"{m.subject}/{m.impl}", m.status) == (self.case.name, self.series, "ok")]
        if not own and not self.shown:
            raise ValueError(f"the benchmark of case {self.case.name} has recorded nothing")
        times = iter(self.shown or (elapsed,))
        rounds = len(self.shown or (elapsed,))
        self.benchmark.group = f"{self.case.area}: {self.case.name}"
        self.benchmark.extra_info["measurements"] = [asdict(m) | ({"samples": None} if self.shown else {}) for m in own]
        self.benchmark.pedantic(lambda: self.session.replay.advance(next(times, 0.0)), rounds=rounds)
