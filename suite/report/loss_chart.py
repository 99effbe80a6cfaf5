"""Training by a recipe beside its pair: the gap of every seed, with the floor, the controls and the published bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from v3bench.suite.ledger import claims
from v3bench.suite.report.chart_style import FIRM, INK, TICK, Drawing, drawing
from v3bench.suite.report.paired_runs import FLOOR, Paired, signed, told, unsigned
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.train.gap import FEWEST, POWER, Judgement, interval, judge

CLAIM = "fp8-loss-gap-16b"
CONTROL = "control-2-bit"
CONTROLS = "control-"  # how the names of those begin that are coarse on purpose: none claims to be finer than CONTROL
NOTE = (
    "Signed relative difference of training loss, mean of the second half of the steps in which a pair differs, a "
    "point for each seed; both runs of a pair see the same data. The interval is that of two one-sided tests at 5 % "
    "over the seeds. A proxy: the published bar is of models of 16B and 230B parameters."
)
JUDGED = (
    "Less the floor: the gap less the floor's, seed by seed; seen from: the least such excess that would be found with "
    f"a chance of {100 * POWER:.0f} %, were the scatter found the true one. A smaller one may hide behind "
    "“indistinguishable from the floor”."
)


def bar() -> float:
    """The published bar, a share."""
    published = claims.read(CLAIM).published.number
    assert not isinstance(published, tuple)
    return published / 100


def gap_chart(one: Paired, who: str, mark: str) -> Drawing:
    """A row for each recipe: its seeds, their mean and its interval; lines at 0 and at the bar."""
    import altair as alt

    rows = [told(name) for name in one.gaps]
    dots = pd.DataFrame([
        {"recipe": told(name), "seed": n, "gap": float(f"{100 * value:.5g}")}
        for name, values in one.gaps.items() for n, value in enumerate(values)
    ])  # fmt: skip
    spans = pd.DataFrame([
        {"recipe": told(name), "low": 100 * found.low, "high": 100 * found.high, "mean": 100 * found.mean}
        for name, values in one.gaps.items() if len(values) >= FEWEST for found in [interval(values)]
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
    note = f"{one.about} {NOTE} Why: {one.case.why}."
    return drawing(f"fp8-{one.anchor}{mark}", caption(one, who), note, layers, 40 * len(rows) + 70)


def caption(one: Paired, who: str) -> str:
    """Of the chart and of its table."""
    return f"Gap of training loss {one.where}, {one.name}{who}"


def gap_table(one: Paired, who: str) -> Table:
    """A row for each recipe: mean and interval, what the rule says of it, and what the design could have seen."""
    rows = []
    for name, values in one.gaps.items():
        row: dict[str, object] = {"recipe": told(name), "seeds": len(values), "outcome": "", "power": "", "above": ""}
        if len(values) >= FEWEST:
            found = interval(values)
            row |= {"mean": found.mean, "low": found.low, "high": found.high}
        if name not in (FLOOR, CONTROL):
            row |= outcome(name, one.gaps)
        rows.append(row)
    columns = (
        Column("recipe", "Recipe"), Column("seeds", "Seeds", True), Column("mean", "Mean gap, %", True, signed),
        Column("low", "Low, %", True, signed), Column("high", "High, %", True, signed),
        Column("excess_low", "Less the floor: low, %", True, signed),
        Column("excess_high", "Less the floor: high, %", True, signed), Column("least", "Seen from, %", True, unsigned),
        Column("outcome", "Outcome"),
        Column("power", "Against the 2-bit control", below=True), Column("above", "Against the bar", below=True),
    )  # fmt: skip
    frame = pd.DataFrame(rows, columns=[c.key for c in columns])
    return Table(caption(one, who), columns, frame, f"{one.about} {NOTE} {JUDGED}")


def outcome(name: str, gaps: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """The rule's cells of a recipe's row, or why it has no outcome."""
    if why := hindered(name, gaps):
        return {"outcome": f"none: {why}"}
    found = judge(gaps[name], gaps[FLOOR], gaps[CONTROL], bar())
    return {
        "excess_low": found.excess.low, "excess_high": found.excess.high, "least": found.least,
        "outcome": found.outcome, "power": "" if name.startswith(CONTROLS) else str(found.separation),
        "above": beyond(found),
    }  # fmt: skip


def hindered(name: str, gaps: Mapping[str, Sequence[float]]) -> str:
    """Why the rule cannot judge a recipe; "" where it can."""
    if lacking := [what for what, one in (("floor", FLOOR), ("2-bit control", CONTROL)) if one not in gaps]:
        return f"no {' and no '.join(lacking)} beside it"
    seeds = [len(gaps[one]) for one in (name, FLOOR, CONTROL)]
    if len(set(seeds)) > 1:
        return f"{seeds[0]} seeds beside {seeds[1]} of the floor and {seeds[2]} of the control"
    return f"fewer than {FEWEST} seeds" if seeds[0] < FEWEST else ""


def beyond(found: Judgement) -> str:
    """Where the gap's interval reaches beyond the bar though the gap is not shown to lie above it."""
    if found.gap.low > bar() or found.gap.high <= bar():
        return ""
    return f"the interval reaches beyond {bar():.2%}: a gap above the bar is not excluded"
