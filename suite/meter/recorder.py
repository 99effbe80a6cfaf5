"""The fixtures ``record`` and ``timed``: what a benchmark calls with what it found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from v3bench.suite.ledger.cases import Case
from v3bench.suite.meter import clock as clocks
from v3bench.suite.meter.competition import Instruments, Outcome, compete
from v3bench.suite.meter.contender import Contender
from v3bench.suite.meter.measure import DEVICE_EFFORTS, ONCE, Effort, interleaved
from v3bench.suite.meter.measurement import Clock, Measurement, Scale
from v3bench.suite.meter.scale import of_case
from v3bench.suite.meter.session import Session
from v3bench.suite.meter.statistics import spread, steady
from v3bench.suite.meter.telemetry import readings


class Recorder:
    """Gathers the records of one benchmark item; they are written together once its function has returned."""

    def __init__(self, session: Session, case: Case, series: str, benchmark: Any, effort: Effort) -> None:
        self.session, self.case, self.series, self.benchmark, self.effort = session, case, series, benchmark, effort
        self.pending: list[Measurement] = []
        self.settled: list[Measurement] = []  # what stands even if this item's own series does not
        self.shown: tuple[float, ...] = ()
        self.started = time.perf_counter()

    def __call__(
        self,
        samples: Sequence[float],
        *,
        series: str = "",
        metric: str = "",
        convention: str = "",
        precision: str = "",
        scale: Scale | None = None,
        clock: Clock = "none",
    ) -> None:
        """Keep one record in SI units, of the case's metric and the item's series unless others are named."""
        if clock != "none":
            self.passed()
        record = self.blank(
            series or self.series,
            scale,
            metric=metric or self.case.metric,
            samples=tuple(samples),
            convention=convention,
            precision=precision,
            clock=clock,
        )
        self.pending.append(record)

    def beside(self, samples: Sequence[float], *, series: str, metric: str, precision: str = "") -> None:
        """Keep one record of another metric, whatever becomes of the item's own series."""
        record = self.blank(series, metric=metric, samples=tuple(samples), precision=precision)
        self.pending.append(record)
        self.settled.append(record)

    def blank(self, series: str, scale: Scale | None = None, **fields: Any) -> Measurement:
        """A record of a series of this case with everything that the session knows."""
        subject, _, impl = series.partition("/")
        case, plan = self.case, self.session.plan
        fields = {"metric": case.metric, **fields}
        return Measurement(
            area=case.area, subject=subject, impl=impl, case=case.name, case_version=case.version, basis=case.basis,
            scale=scale or of_case(subject, case.shape), device=plan.device, launch=plan.launch, **fields,
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
        self.end(self.session.spoiled.get(name))
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
        self.complete(runs)
        taken = interleaved(runs, clocks.for_device(self.session.plan.device), self.effort)
        return {series: tuple(seconds / per for seconds in samples) for series, samples in taken.items()}

    def complete(self, runs: Mapping[str, object]) -> None:
        """Raise ValueError unless these are the case's series."""
        if set(runs) != set(self.case.series):
            raise ValueError(f"case {self.case.name} has series {', '.join(self.case.series)}, not {', '.join(runs)}")

    def end(self, fate: tuple[str, str] | None) -> None:
        """End the item as skipped or failed, where that is its fate."""
        if fate is not None:
            status, why = fate
            if status == "skipped":
                pytest.skip(why)
            pytest.fail(why, pytrace=False)

    def timed_kernels(
        self, build: Callable[[], Mapping[str, Contender]], *, convention: str = "", precision: str = ""
    ) -> None:
        """As ``timed``, on a GPU: seconds of a launch from CUDA graphs over rotating buffers, A-B-B-A, with telemetry.

        ``build`` runs the gate and gives a contender for each series. A contender that is missing ends its own item as
        skipped, one that fails as failed; the others are timed and recorded. The case's shape may say ``cold = true``
        (device-cold) and ``energy = true`` (joules of a launch, a second more for each series).
        """
        session, name = self.session, self.case.name
        if name not in session.fates:
            self.end(session.spoiled.get(name))
            self.settle(build, convention, precision)
        self.end(session.fates[name].get(self.series))
        self.shown = session.times[name][self.series]

    def settle(self, build: Callable[[], Mapping[str, Contender]], convention: str, precision: str) -> None:
        """Find times and fates of all series: stored by the run that is resumed, or taken now, together."""
        session, case = self.session, self.case
        found = {series: session.stored(case, series) for series in case.series}
        session.times[case.name] = {series: kept[-1].samples for series, kept in found.items() if kept}
        lacking = [series for series, kept in found.items() if not kept]
        contenders: Mapping[str, Contender] = {}
        if lacking:
            contenders = build()
            self.passed()
            self.complete(contenders)
        fates = {series: fate for series in lacking if (fate := contenders[series].fate)}
        # Ratios are of one launch, so those that are stored are taken again beside those that are not.
        if len(fates) < len(lacking):
            session.instruments = session.instruments or Instruments.of_gpu()
            shape = case.shape
            effort = self.effort if self.effort == ONCE else DEVICE_EFFORTS[session.plan.profile]
            cold, energy = bool(shape.get("cold")), bool(shape.get("energy"))
            outcome = compete(contenders, effort, session.instruments, cold=cold, energy=energy)
            session.times[case.name], session.telemetry[case.name] = outcome.samples, outcome
            fates = dict(outcome.fates)
            self.pending += self.of_outcome(outcome, "device-cold" if cold else "device-hot", convention, precision)
        if self.series in fates:
            self.settled, self.pending = self.pending, []
        session.fates[case.name] = fates

    def of_outcome(self, outcome: Outcome, clock: Clock, convention: str, precision: str) -> list[Measurement]:
        """The records of a competition: times, and what the GPU did meanwhile."""
        records = []
        shared: dict[str, Any] = {"convention": convention, "precision": precision}
        for series, samples in outcome.samples.items():
            records.append(self.blank(series, samples=samples, clock=clock, **shared))
            also = {name: readings(outcome.snapshots[series], name) for name in ("sm_clock", "power", "temperature")}
            also["energy_per_call"] = (outcome.energy[series],) if series in outcome.energy else ()
            also["repeated_rounds"] = (len(outcome.void),) if outcome.void else ()
            for name, taken in also.items():
                if taken:
                    records.append(self.blank(series, metric=name, samples=taken, **shared))
        return records

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
        if outcome := self.session.telemetry.get(self.case.name):
            told = outcome.told(self.series)
            self.benchmark.extra_info["telemetry"] = told
            self.benchmark.extra_info["spread"] = spread(self.shown)
            self.benchmark.extra_info["steady"] = steady(self.shown)
        self.benchmark.pedantic(lambda: self.session.replay.advance(next(times, 0.0)), rounds=rounds)
