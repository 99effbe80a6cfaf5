"""Times side by side: what was measured in turns in one launch, as ratios to the first of its case.

Ratios outlive the machine better than times do: rounds taken in turns share its load and its clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from v3bench.suite.ledger import metrics
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.meter.statistics import paired_ratio
from v3bench.suite.report.display import fixed, number
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.run_folder import Run

Pairs = tuple[list[float], list[float]]  # rounds of the first, and of the one set beside it


def ratio_table(runs: Sequence[Run]) -> Table:
    """One row per series timed beside another: its time over the first one's, the median over paired rounds."""
    of_run = (Column("run", "Run", True),) if len(runs) > 1 else ()
    columns = (
        Column("who", "Subject, implementation"), Column("ratio", "Takes", True), Column("interval", "Interval", True),
        Column("first", "Times as long as"), Column("metric", "Metric"), Column("scale", "Scale"),
        Column("device", "Device, clock"), Column("case", "Case"), Column("rounds", "Rounds", True), *of_run,
    )  # fmt: skip
    rows = [row for i, run in enumerate(runs, 1) for row in ratios(run, i)]
    frame = pd.DataFrame(rows, columns=[column.key for column in columns])
    note = "Rounds were taken in turns in one process. Below 1 is faster; the interval is the median's, at 95 %."
    return Table("Side by side", columns, frame, note)


def ratios(run: Run, position: int) -> list[dict[str, Any]]:
    """The rows of one run: every timed series of a case against the case's first, launches pooled."""
    first: dict[tuple[str, ...], Measurement] = {}  # of each case and setting, by launch
    pooled: dict[tuple[str, ...], tuple[Measurement, Measurement, Pairs]] = {}
    for m in filter(timed, run.measurements):
        setting = (m.case, m.metric, m.device, m.clock, m.precision)
        base = first.setdefault((*setting, m.launch), m)
        if len(base.samples) == len(m.samples) and (m.subject, m.impl) != (base.subject, base.impl):
            key = (*setting, base.subject, base.impl, m.subject, m.impl)
            _, _, (before, after) = pooled.setdefault(key, (base, m, ([], [])))
            before.extend(base.samples)
            after.extend(m.samples)
    return [row(base, m, *pairs, position) for base, m, pairs in pooled.values()]


def timed(m: Measurement) -> bool:
    """Whether a record holds rounds of time."""
    metric = metrics.load().get(m.metric)
    return m.status == "ok" and m.clock != "none" and metric is not None and metric.unit == "s"


def row(base: Measurement, m: Measurement, before: list[float], after: list[float], run: int) -> dict[str, Any]:
    """One series beside the first of its case, as text."""
    found = paired_ratio(after, before)
    interval = "" if found.low is None or found.high is None else f"{fixed(found.low)} to {fixed(found.high)}"
    return {
        "who": f"{m.subject}, {m.impl}", "ratio": fixed(found.median) + " ×", "interval": interval,
        "first": f"{base.subject}, {base.impl}", "metric": base.metric, "scale": base.scale,
        "device": f"{base.device}, {base.clock}", "case": base.case, "rounds": number(found.count), "run": run,
    }  # fmt: skip
