"""The chapter on multi-token prediction: what the byte model says, then of each run acceptance, learning, speed-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from v3bench.suite.report import learning_chart, speculation_chart, waterfall_chart
from v3bench.suite.report.acceptance_tables import balance_table, bits_table, forced_tables, generation_table
from v3bench.suite.report.bundle import available
from v3bench.suite.report.chart_style import Drawing
from v3bench.suite.report.parts_table import parts_table
from v3bench.suite.report.tables import Table
from v3bench.suite.run_folder import Run

TEXT = (
    "Drafting a token more and verifying both in one step: how often the draft is right, what that gains, and where it "
    "can. The model of bytes is of DeepSeek-V3 itself. What is called a proxy is a small model of its architecture, "
    "trained here: it says nothing of the published acceptance."
)
NO_RUN = "No run here has records of MTP: v3bench run --only mtp --out RUN makes them."


def mtp_parts(runs: Sequence[Run], note: str) -> list[dict[str, Any]]:
    """The chapter; ``note`` stands in place of charts that cannot be drawn."""
    tables: list[Table] = []
    charts: list[Drawing] = list(speculation_chart.law_charts()) if available() else []
    for i, run in enumerate(runs, 1):
        who, mark = (f", run {i}", f"-{i}") if len(runs) > 1 else ("", "")
        learnt = learning_chart.learning(run.measurements)
        parts = waterfall_chart.taken_apart(run.measurements)
        if available():
            drawn = [learning_chart.learning_chart(learnt, who, mark), *waterfall_chart.waterfalls(parts, who, mark)]
            charts += [drawing for drawing in drawn if drawing]
        found = [
            *forced_tables(run.measurements, who),
            bits_table(run.measurements, who),
            learning_chart.learning_table(learnt, who),
            generation_table(run.measurements, who),
            *waterfall_chart.waterfall_tables(parts, who),
            parts_table(run, who),
            balance_table(run.measurements, who),
        ]
        tables += [table for table in found if len(table.frame)]
    said = [TEXT, *([] if tables else [NO_RUN])]
    part = {"id": "mtp-drafting", "title": "Multi-token prediction", "text": " ".join(said), "charts": charts}
    return [part | {"tables": [*speculation_chart.law_tables(), *tables], "note": "" if available() else note}]
