"""The chapter on kernels: of each run with kernels its roofline, and the tables behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from v3bench.suite.report import kernel_tables
from v3bench.suite.report.bundle import available
from v3bench.suite.report.chart_style import Drawing
from v3bench.suite.report.roofline_chart import roofline
from v3bench.suite.report.rooflines import ceilings
from v3bench.suite.report.tables import Table
from v3bench.suite.run_folder import Run

TEXT = (
    "Each kernel beside its rivals, timed in turns in one process after its result was checked; its share of the "
    "roofline; and what others published, with chip and clock, which is never mixed with what was measured here."
)
UNTIMED = (
    "Each kernel on small, odd shapes under Triton's interpreter, against float64; times, rooflines and rivals need a "
    "Hopper GPU."
)


def kernel_parts(runs: Sequence[Run], note: str) -> list[dict[str, Any]]:
    """The chapter, where a run has the area; ``note`` stands in place of charts that cannot be drawn."""
    tables: list[Table] = []
    charts: list[Drawing] = []
    lacking = timed = False
    for i, whole in enumerate(runs, 1):
        run = kernel_tables.KernelRun.of(whole)
        if not run.records:
            continue
        of, who = ceilings(whole), f", run {i}" if len(runs) > 1 else ""
        speeds = kernel_tables.speed_tables(run, of, who)
        if speeds and available():
            drawn = roofline(run, of, f"-{i}" if len(runs) > 1 else "")
            charts += [drawn] if drawn else []
        timed = timed or bool(speeds)
        lacking = lacking or (bool(speeds) and not available())
        behind = (kernel_tables.check_table(run, who), kernel_tables.untimed_table(run, who))
        tables += [kernel_tables.ceiling_table(run, of, who)] if speeds else []
        tables += [*speeds, *(table for table in behind if table.cells)]
    if not tables:
        return []
    return [
        {
            "id": "kernel-times", "title": "Kernels", "text": TEXT if timed else UNTIMED, "charts": charts,
            "note": note if lacking else "",
            "tables": tables,
        }
    ]  # fmt: skip
