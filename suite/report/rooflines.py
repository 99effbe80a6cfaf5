"""Rooflines of a run's kernels: the ceilings of the run itself where it has them, else the datasheet's, and shares.

Ceilings    bytes per second and FLOPs per second that this GPU reaches, and where that comes from
ceilings    those of a run
share       how much of what its ceilings allow a time makes use of, and which of them binds
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from v3bench.suite.laws.work import Work
from v3bench.suite.ledger import cases, hardware
from v3bench.suite.meter.ceilings import CEILINGS
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.run_folder import Run

SUBJECT = "kernels.ceiling"
MEASURED, DATASHEET, UNKNOWN = "measured in this run", "datasheet", "unknown"


@dataclass(frozen=True)
class Ceilings:
    """SI; None where it is not known. ``source`` by the names of the fields."""

    copy: float | None
    read: float | None
    bf16: float | None
    fp8: float | None
    source: Mapping[str, str]

    def bandwidth(self, work: Work) -> float | None:
        """A product's operands are read many times more than its result is written: it is held to reading alone."""
        return self.read if work.peak else self.copy

    def flop_rate(self, work: Work) -> float | None:
        """The rate of the products' precision; None for an operation without products."""
        return {"fp8": self.fp8, "bf16": self.bf16}.get(work.peak)


def ceilings(run: Run) -> Ceilings:
    """Of each kind the best that the run measured, else what hardware.toml has under the GPU's exact name."""
    reached: dict[str, float] = {}
    for m in run.measurements:
        kind = ceiling_of(m)
        if kind is not None:
            work = CEILINGS[kind].work(cases.load()[m.case].shape["n"])
            rate = (work.flops or work.nbytes) / median(m.samples)
            key = kind.partition("-")[0]  # the ceilings in FP8 differ in scales and accumulation; the best one counts
            reached[key] = max(rate, reached.get(key, 0.0))
    name = run.info["gpus"][0]["name"] if run.info["device"] == "cuda" and run.info["gpus"] else ""
    values, source = {}, {}
    for key, spec in (("copy", "bandwidth"), ("read", "bandwidth"), ("bf16", "bf16"), ("fp8", "fp8")):
        values[key] = reached.get(key) or hardware.peak(name, spec)
        source[key] = MEASURED if key in reached else DATASHEET if values[key] else UNKNOWN
    return Ceilings(**values, source=source)


def ceiling_of(m: Measurement) -> str | None:
    """The kind of ceiling that a record has the time of, if any."""
    if m.subject != SUBJECT or m.status != "ok" or m.metric != "time":
        return None
    case = cases.load().get(m.case)
    if case is None:
        return None
    kind = case.shape.get("kind")
    return kind if case.version == m.case_version and kind in CEILINGS else None


def share(work: Work, seconds: float, of: Ceilings) -> tuple[float, str] | None:
    """(Share of the roofline reached, "memory" or "products"); None where a ceiling is not known."""
    bandwidth, rate = of.bandwidth(work), of.flop_rate(work)
    if bandwidth is None or (work.peak and rate is None):
        return None
    bound = work.bound(bandwidth, rate)
    return bound / seconds, "products" if bound > work.nbytes / bandwidth else "memory"
