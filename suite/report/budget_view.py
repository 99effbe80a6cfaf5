"""The chapter on FP8's error budget: sums in few bits, then of each run its quantisers, products, layers, losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

import pandas as pd
from v3bench.suite.laws.numerics import FRACTION_BITS, PROMOTE
from v3bench.suite.ledger import cases
from v3bench.suite.ledger.cases import Case
from v3bench.suite.report import accumulation_chart, layer_chart, loss_chart, paired_runs
from v3bench.suite.report.accumulation_chart import percent
from v3bench.suite.report.bundle import available
from v3bench.suite.report.current import current
from v3bench.suite.report.display import fixed, three
from v3bench.suite.report.format_tables import format_tables
from v3bench.suite.report.layer_chart import turned
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.run_folder import Run

AREA = "fp8"
TEXT = (
    "What FP8 costs, from the bottom up: what summing in few bits loses, what one quantiser does to a matrix, and what "
    "of it reaches a product, a layer, a prediction and the loss. Magnitude and direction both: a cosine near 1 alone "
    "hides what is too small throughout."
)
NORM = "root mean square"
BITS = f"{FRACTION_BITS} bits, promoted every {PROMOTE}", f"{FRACTION_BITS} bits, never promoted"
# A product's sources of error, named as in suite/budget/gemm.py, which needs torch; and how a column says it.
SOURCES = {
    "left quantised": "Left side", "right quantised": "Right side", "both quantised": "Both sides",
    f"sum alone, {BITS[0]}": f"Sum alone, {BITS[0]}", f"sum alone, {BITS[1]}": f"Sum alone, {BITS[1]}",
    f"both quantised, {BITS[0]}": "All, promoted", f"both quantised, {BITS[1]}": "All, never promoted",
}  # fmt: skip
BOTH = "both quantised"


@dataclass(frozen=True)
class Found:
    """A run's values of the area: medians by case, subject, metric and convention, the last record of each."""

    values: dict[tuple[str, str, str, str], float]

    @classmethod
    def of(cls, run: Run) -> Self:
        records = current(run.measurements, area=AREA)
        return cls({(m.case, m.subject, m.metric, m.convention): median(m.samples) for m in records})

    def value(self, case: Case, subject: str, metric: str, convention: str = "") -> float | None:
        return self.values.get((case.name, subject, metric, convention))


def budget_parts(runs: Sequence[Run], note: str) -> list[dict[str, Any]]:
    """The chapter; ``note`` stands in place of the chart where it cannot be drawn."""
    names = [f"measured{f', run {i}' if len(runs) > 1 else ''}" for i in range(1, len(runs) + 1)]
    points = [accumulation_chart.measured(run.measurements) for run in runs]
    tables = [accumulation_chart.length_table(points, names), accumulation_chart.interval_table()]
    for i, run in enumerate(runs, 1):
        found, who = Found.of(run), f", run {i}" if len(runs) > 1 else ""
        for case in cases.load().values():
            if case.area == AREA and case.bench in TABLES:
                table = TABLES[case.bench](found, case, who)
                tables += [table] if len(table.frame) else []
    drawn = available()
    charts = [accumulation_chart.accumulation_chart(points)] if drawn else []
    for i, run in enumerate(runs, 1):
        who, mark = (f", run {i}", f"-{i}") if len(runs) > 1 else ("", "")
        frame = layer_chart.errors(run.measurements)
        losses = paired_runs.paired(run.measurements)
        if drawn:
            drawings = [layer_chart.heat_map(frame, who, mark)]
            drawings += [loss_chart.gap_chart(one, who, mark) for one in losses]
            charts += [drawing for drawing in drawings if drawing]
        behind = [
            layer_chart.recorded_table(run.measurements, who),
            *layer_chart.product_tables(frame, who),
            layer_chart.logits_table(run.measurements, who),
            *(make(one, who) for one in losses for make in LOSS_TABLES),
            *format_tables(run.measurements, who),
        ]
        tables += [table for table in behind if len(table.frame)]
    part = {"id": "fp8-budget", "title": "FP8 error budget", "text": TEXT, "charts": charts, "tables": tables}
    return [part | {"note": "" if drawn else note}]


def quantiser_table(found: Found, case: Case, who: str) -> Table:
    """A row for each quantiser on the case's distribution."""
    columns = (
        Column("name", "Quantiser"), Column("relative_error", "Relative error, %", True, percent),
        Column("signal_to_noise", "Signal to noise, dB", True, lambda value: fixed(value, 1)),
        Column("turned", "1 − cosine", True, three),
        Column("flushed", "Flushed to zero, %", True, percent), Column("clipped", "Clipped, %", True, percent),
    )  # fmt: skip
    rows = []
    for subject in case.subjects:
        row = {"relative_error": found.value(case, subject, "relative_error", NORM)}
        row |= {name: found.value(case, subject, name) for name in ("signal_to_noise", "flushed", "clipped")}
        row["turned"] = turned(found.value(case, subject, "cosine"))
        rows.append({"name": subject.partition(".")[2], **row})
    shape = case.shape
    note = (
        f"Root mean square of the error over that of the values, {shape['rows']:,} × {shape['columns']:,} of them. "
        f"Why: {case.why}."
    )
    return Table(f"Quantisers, {shape['distribution']}{who}", columns, filled(rows, columns), note)


def gemm_table(found: Found, case: Case, who: str) -> Table:
    """A row for each recipe at the case's product: the error by source, then the worst row and the direction."""
    columns = (
        Column("name", "Recipe"), *(Column(source, f"{label}, %", True, percent) for source, label in SOURCES.items()),
        Column("worst", "Worst row, %", True, percent),
        Column("turned", "1 − cosine", True, three),
    )  # fmt: skip
    rows = []
    for subject in case.subjects:
        row = {source: found.value(case, subject, "relative_error", f"{NORM}; {source}") for source in SOURCES}
        row["worst"] = found.value(case, subject, "worst_row_error", BOTH)
        row["turned"] = turned(found.value(case, subject, "cosine", BOTH))
        rows.append({"name": subject.partition(".")[2], **row})
    shape = case.shape
    note = (
        f"Root mean square of the error over that of {shape['rows']} × {shape['N']} sums, against float64 of the "
        "unquantised operands. Sums in few bits are modelled; alone, against the exact sums of the same operands. "
        f"Worst row and cosine: both sides quantised. Why: {case.why}."
    )
    caption = f"Products, {shape['product']}, K = {shape['K']:,}, {shape['distribution']}{who}"
    return Table(caption, columns, filled(rows, columns), note)


def filled(rows: list[dict[str, Any]], columns: Sequence[Column]) -> pd.DataFrame:
    """The rows that hold a value."""
    some = [row for row in rows if any(row[str(column.key)] is not None for column in columns[1:])]
    return pd.DataFrame(some, columns=[column.key for column in columns])


LOSS_TABLES = (loss_chart.gap_table, paired_runs.context_table, paired_runs.window_table)
TABLES = {"quantiser": quantiser_table, "gemm_error": gemm_table}
