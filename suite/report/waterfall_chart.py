"""A measured speed-up taken apart: from 1 + acceptance down through what steps and drafts cost to what was reached."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import pandas as pd
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.mtp import conventions
from v3bench.suite.mtp.conventions import BOUND, DRAFT, MEASURED, TWO_TOKEN_STEP
from v3bench.suite.report.chart_style import FIRM, INK, Drawing, drawing
from v3bench.suite.report.current import current
from v3bench.suite.report.display import MINUS, number
from v3bench.suite.report.learning_chart import COLOURS
from v3bench.suite.report.tables import Column, Table

KEYS = ["case", "impl", "batch", "subject"]
PARTS = {  # metric and what of it -> column
    ("speed_up", MEASURED): "measured", ("speed_up", BOUND): "bound", ("step_cost", TWO_TOKEN_STEP): "step",
    ("step_cost", DRAFT): "draft", ("tokens_per_second", "plain"): "plain",
}  # fmt: skip
NEEDED = ["bound", "step", "draft", "measured"]
STAGES = ("1 + acceptance", "two-token step", "draft", "unexplained", "measured")
NOTE = (
    "One draft a step, greedy. The bound is what this very generation gained a step, 1 + acceptance: as if verifying "
    "two tokens took as long as one, and drafting nothing. Divided by what a step of two tokens takes in plain steps, "
    "then by what step and draft take together; what the timed parts do not explain is left, and may be a gain. "
    "The dense proxy has more layers, so that its draft is a smaller share of a step, whatever experts cost. Medians. "
    "Proxies."
)


def taken_apart(records: Sequence[Measurement]) -> pd.DataFrame:
    """A row for each case, precision, batch and subject with what the run has of it; medians; KEYS and PARTS."""
    found: dict[tuple[str, str, int, str], dict[str, float]] = {}
    for m in current(records, area="mtp", bench="speculation"):
        of = conventions.parse_batched(m.convention)
        column = PARTS.get((m.metric, of.what)) if of else None
        if of and column:
            row = found.setdefault((m.case, m.impl, of.batch, m.subject), {})
            row[column] = median(m.samples)
            if column == "measured":
                row |= {"least": min(m.samples), "most": max(m.samples), "rounds": len(m.samples)}
    rows = [dict(zip(KEYS, key, strict=True)) | values for key, values in found.items()]
    return pd.DataFrame(rows, columns=[*KEYS, *PARTS.values(), "least", "most", "rounds"])


def whole(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that can be taken apart, with what each stage takes off."""
    rows = frame.dropna(subset=NEEDED)
    stepped, parts = rows["bound"] / rows["step"], rows["bound"] / (rows["step"] + rows["draft"])
    return rows.assign(
        stepped=stepped, parts=parts, by_step=rows["bound"] - stepped, by_draft=stepped - parts,
        unexplained=parts - rows["measured"],
    )  # fmt: skip


def stages(frame: pd.DataFrame) -> pd.DataFrame:
    """subject, stage, low, high, text: a bar for each stage of each row of ``whole``."""
    bars = []
    for row in frame.itertuples():
        ends = [(0.0, row.bound), (row.stepped, row.bound), (row.parts, row.stepped), (row.measured, row.parts),
                (0.0, row.measured)]  # fmt: skip
        for stage, (low, high) in zip(STAGES, ends, strict=True):
            total = stage in (STAGES[0], STAGES[-1])
            text = two(high) if total else two(low - high) if low <= high else f"+{two(low - high)}"
            left, right = (float(f"{edge:.5g}") for edge in sorted((low, high)))
            bars.append([row.subject, stage, left, right, total, text])
    return pd.DataFrame(bars, columns=["subject", "stage", "low", "high", "total", "text"])


def waterfalls(frame: pd.DataFrame, who: str, mark: str) -> list[Drawing]:
    """A chart for each case, precision and batch, the subjects side by side in each stage."""
    import altair as alt

    found: list[Drawing] = []
    for (case, impl, batch), own in whole(frame).groupby(["case", "impl", "batch"], sort=False):
        bars = stages(own)
        names = [name for name in COLOURS if name in set(bars["subject"])]
        x = alt.X("low:Q", title="times plain decoding", axis=alt.Axis(grid=True, format=".1f", tickCount=6),
                  scale=alt.Scale(domainMin=0, domainMax=max(1.1, float(bars["high"].max()) * 1.12)))  # fmt: skip
        y = alt.Y("stage:N", sort=list(STAGES), title=None)
        offset = alt.YOffset("subject:N", sort=names)
        colour = alt.Color("subject:N", legend=alt.Legend(title=None),
                           scale=alt.Scale(domain=names, range=[COLOURS[name] for name in names]))  # fmt: skip
        tip = [alt.Tooltip("subject:N"), alt.Tooltip("stage:N"), alt.Tooltip("text:N", title="speed-up")]
        drawn = alt.Chart(bars).mark_bar(size=11).encode(
            x=x, x2="high:Q", y=y, yOffset=offset, color=colour, tooltip=tip,
            opacity=alt.condition("datum.total", alt.value(0.9), alt.value(0.5)),
        )  # fmt: skip
        labels = alt.Chart(bars).mark_text(align="left", dx=5, color=INK)
        labels = labels.encode(x=alt.X("high:Q"), y=y, yOffset=offset, text="text:N")
        one = alt.Chart(pd.DataFrame({"low": [1.0]})).mark_rule(strokeDash=[4, 3], color=FIRM).encode(x=x)
        caption = f"Speed-up taken apart, {case}, {impl}, batch {batch}{who}"
        anchor = f"mtp-waterfall-{case}-{impl}-{batch}{mark}"
        height = 18 * len(STAGES) * max(len(names), 1) + 70
        found.append(drawing(anchor, caption, "As above." if found else NOTE, alt.layer(one, drawn, labels), height))
    return found


def waterfall_tables(frame: pd.DataFrame, who: str) -> list[Table]:
    """For each case the charts' numbers, and rows of which the run has only some."""
    rows = frame.merge(whole(frame)[[*KEYS, "by_step", "by_draft", "unexplained"]], on=KEYS, how="left")
    rows["range"] = [
        "" if pd.isna(row.least) or row.rounds < 2 else f"{two(row.least)} to {two(row.most)}"
        for row in rows.itertuples()
    ]
    columns = (
        Column("subject", "Model"), Column("impl", "Precision"), Column("batch", "Batch", True),
        Column("plain", "Plain, tok/s", True, lambda value: number(value, 3)),
        Column("bound", "1 + acceptance", True, two), Column("step", "Step", True, two),
        Column("draft", "Draft", True, two), Column("by_step", "Step loses", True, two),
        Column("by_draft", "Draft loses", True, two), Column("unexplained", "Unexplained", True, two),
        Column("measured", "Measured", True, two), Column("range", "Rounds"),
    )  # fmt: skip
    note = (
        f"{NOTE} Step and draft: a step of two tokens and its draft, over a plain step of one token. Rounds: least to "
        "most. Plain: tokens a second of one sequence."
    )
    return [
        Table(f"Speed-up taken apart, {case}{who}", columns, own, note)
        for case, own in rows.groupby("case", sort=False)
    ]


def two(value: float) -> str:
    """Two decimals, of small losses too: they stand in sums."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)
