"""Training by a recipe beside its pair: the gap of every seed, with the floor, the controls and the published bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from v3bench.suite.ledger import cases, claims
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.report.chart_style import FIRM, INK, TICK, Drawing, drawing
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.train.gap import FEWEST, interval, judge, separation

CLAIM = "fp8-loss-gap-16b"
FLOOR, CONTROL = "bf16", "control-2-bit"
LABELS = {FLOOR: "bf16 against fp32 (floor)"}
NOTE = (
    "Signed relative difference of training loss, mean of the second half of a run, a point for each seed; both runs "
    "of a pair begin from the same weights and see the same data. The interval is that of two one-sided tests at 5 % "
    "over the seeds. A proxy: the published bar is of models of 16B and 230B parameters."
)
Gaps = Mapping[str, Mapping[str, tuple[float, ...]]]  # case -> recipe -> a gap for each seed


def loss_gaps(records: Sequence[Measurement]) -> Gaps:
    """The gaps of a run, the last record of each recipe."""
    versions = {case.name: case.version for case in cases.load().values() if case.bench == "loss_gap"}
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for m in records:
        if m.status == "ok" and m.metric == "loss_gap" and versions.get(m.case) == m.case_version:
            found.setdefault(m.case, {})[m.subject.partition(".")[2]] = m.samples
    return found


def told(recipe: str) -> str:
    """A recipe as the chart calls it."""
    return LABELS.get(recipe, recipe)


def bar() -> float:
    """The published bar, a share."""
    published = claims.read(CLAIM).published.number
    assert not isinstance(published, tuple)
    return published / 100


def gap_chart(case: str, gaps: Mapping[str, Sequence[float]], who: str, mark: str) -> Drawing:
    """A row for each recipe: its seeds, their mean and its interval; lines at 0 and at the bar."""
    import altair as alt

    rows = [told(name) for name in gaps]
    dots = pd.DataFrame([
        {"recipe": told(name), "seed": n, "gap": float(f"{100 * value:.5g}")}
        for name, values in gaps.items() for n, value in enumerate(values)
    ])  # fmt: skip
    spans = pd.DataFrame([
        {"recipe": told(name), "low": 100 * found.low, "high": 100 * found.high, "mean": 100 * found.mean}
        for name, values in gaps.items() if len(values) >= FEWEST for found in [interval(values)]
    ], columns=["recipe", "low", "high", "mean"])  # fmt: skip
    x = alt.X("gap:Q", title="gap of training loss, %", axis=alt.Axis(grid=True, format="~g"))
    y = alt.Y("recipe:N", sort=rows, title=None, axis=alt.Axis(labelLimit=200))
    tip = [alt.Tooltip("recipe:N"), alt.Tooltip("seed:O"), alt.Tooltip("gap:Q", format=".4f", title="gap, %")]
    points = alt.Chart(dots).mark_point(size=45, strokeWidth=1.5, color="var(--c1)", opacity=0.8)
    lines = alt.Chart(spans).mark_rule(strokeWidth=2, color="var(--c4)").encode(x=alt.X("low:Q"), x2="high:Q", y=y)
    means = alt.Chart(spans).mark_point(shape=TICK, size=200, strokeWidth=2.5, color="var(--c4)")
    means = means.encode(x=alt.X("mean:Q"), y=y, tooltip=[alt.Tooltip("mean:Q", format=".4f", title="mean, %")])
    limits = pd.DataFrame({"gap": [0.0, 100 * bar()], "text": ["", "published bar"]})
    rules = alt.Chart(limits).mark_rule(strokeDash=[4, 3], color=FIRM).encode(x=x)
    label = alt.Chart(limits).mark_text(align="left", dx=4, baseline="top", color=INK)
    label = label.encode(x=x, y=alt.value(2), text="text:N")
    layers = alt.layer(rules, lines, points.encode(x=x, y=y, tooltip=tip), means, label)
    why = cases.load()[case].why
    caption = f"Gap of training loss, {case}{who}"
    return drawing(f"fp8-{case}{mark}", caption, f"{NOTE} Why: {why}.", layers, 40 * len(rows) + 70)


def gap_table(case: str, gaps: Mapping[str, Sequence[float]], who: str) -> Table:
    """A row for each recipe: mean and interval, what the rule says of it, and whether the design has power."""
    rows = []
    for name, values in gaps.items():
        row: dict[str, object] = {"recipe": told(name), "seeds": len(values), "outcome": "", "power": ""}
        if len(values) >= FEWEST:
            found = interval(values)
            row |= {"mean": found.mean, "low": found.low, "high": found.high}
            if name not in (FLOOR, CONTROL) and {FLOOR, CONTROL} <= gaps.keys():
                row["outcome"] = judge(values, gaps[FLOOR], gaps[CONTROL], bar()).outcome
                row["power"] = str(separation(values, gaps[CONTROL]))
        rows.append(row)
    columns = (
        Column("recipe", "Recipe"), Column("seeds", "Seeds", True), Column("mean", "Mean gap, %", True, signed),
        Column("low", "Low, %", True, signed), Column("high", "High, %", True, signed), Column("outcome", "Outcome"),
        Column("power", "Against the 2-bit control", below=True),
    )  # fmt: skip
    shape = cases.load()[case].shape
    note = f"{shape['steps']} steps of {shape['batch']} × {shape['length']} tokens. {NOTE}"
    return Table(
        f"Gap of training loss, {case}{who}", columns, pd.DataFrame(rows, columns=[c.key for c in columns]), note
    )


def signed(share: float) -> str:
    """A signed share in percent, three decimals."""
    return f"{100 * share:+.3f}".replace("-", "−")
