"""Acceptance against training steps: how soon an MTP module drafts what its model says, beside bits per byte."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pandas as pd
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.mtp import conventions
from v3bench.suite.report.chart_style import Drawing, drawing
from v3bench.suite.report.current import current
from v3bench.suite.report.display import fixed, number
from v3bench.suite.report.tables import Column, Table

NOTE = (
    "Teacher-forced acceptance of draft 1 at temperature 0 on held-out files: the share of positions where the "
    "module's first choice is the main head's. A model that has learned little repeats one token, which is drafted "
    "easily: acceptance says something only beside bits per byte, here of the same few windows. A proxy."
)
COLOURS = {subject: f"var(--c{colour})" for subject, colour in zip(conventions.SUBJECTS, (1, 3, 4), strict=True)}


def learning(records: Sequence[Measurement]) -> pd.DataFrame:
    """A row for each case, subject and number of steps: acceptance and bits per byte, means over files."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for m in current(records, area="mtp", bench="learning"):
        at = conventions.parse_learning(m.convention)
        if at and m.metric in ("acceptance_rate", "bits_per_byte"):
            found.setdefault((m.case, m.subject, at.steps), {"about": at.about})[m.metric] = fmean(m.samples)
    keys = ["case", "subject", "steps"]
    order = sorted(sorted(found), key=lambda key: (key[0], rank(key[1])))
    rows = [dict(zip(keys, key, strict=True)) | found[key] for key in order]
    return pd.DataFrame(rows, columns=[*keys, "about", "acceptance_rate", "bits_per_byte"])


def learning_chart(frame: pd.DataFrame, who: str, mark: str) -> Drawing | None:
    """A line for each training; None where no run has one."""
    import altair as alt

    frame = frame.dropna(subset="acceptance_rate")
    if frame.empty:
        return None
    frame = frame.assign(
        share=[float(f"{100 * value:.5g}") for value in frame["acceptance_rate"]],
        line=frame["case"] + frame["subject"],
    )
    names = [name for name in COLOURS if name in set(frame["subject"])]
    x = alt.X("steps:Q", title="training steps", axis=alt.Axis(format=",d", tickCount=6))
    y = alt.Y("share:Q", title="acceptance, %", axis=alt.Axis(grid=True), scale=alt.Scale(domain=[0, 100]))
    colour = alt.Color("subject:N", legend=alt.Legend(title=None, symbolStrokeWidth=2),
                       scale=alt.Scale(domain=names, range=[COLOURS[name] for name in names]))  # fmt: skip
    tip = [alt.Tooltip("subject:N"), alt.Tooltip("steps:Q", format=",d"), alt.Tooltip("share:Q", title="acceptance, %"),
           alt.Tooltip("bits_per_byte:Q", format=".3f", title="bits per byte")]  # fmt: skip
    lines = alt.Chart(frame).mark_line(strokeWidth=1.5).encode(x=x, y=y, color=colour, detail="line:N")
    dots = alt.Chart(frame).mark_point(size=60, strokeWidth=2).encode(x=x, y=y, color=colour, tooltip=tip)
    caption = f"Acceptance against training steps{who}"
    return drawing(f"mtp-learning{mark}", caption, NOTE, alt.layer(lines, dots), 300)


def learning_table(frame: pd.DataFrame, who: str) -> Table:
    """The chart's numbers."""
    columns = (
        Column("subject", "Model"), Column("steps", "Steps", True, number),
        Column("acceptance_rate", "Acceptance, %", True, lambda value: fixed(100 * value, 1)),
        Column("bits_per_byte", "Bits per byte", True, lambda value: fixed(value, 3)),
    )  # fmt: skip
    ends = "; ".join(dict.fromkeys(frame.drop_duplicates(["case", "subject"], keep="last")["about"]))
    return Table(f"Acceptance against training steps{who}", columns, frame, f"{NOTE} At the end {ends}.")


def rank(subject: str) -> int:
    """Where a subject stands among others: with experts first, as they are named in one place."""
    return conventions.SUBJECTS.index(subject) if subject in conventions.SUBJECTS else len(conventions.SUBJECTS)
