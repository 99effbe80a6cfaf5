"""The report's charts as Vega-Lite specifications, made by Altair. Every number in them stands in a table too.

Colours are the page's own CSS variables, so that a chart follows light, dark and print. Nothing is drawn here:
the browser draws, through vega-embed with its expression interpreter, which needs no eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from v3bench.suite.ledger.units import to_si
from v3bench.suite.ledger.verdict import Judged
from v3bench.suite.report import model_tables
from v3bench.suite.report.bundle import SCHEMA
from v3bench.suite.report.display import number

if TYPE_CHECKING:
    import altair as alt

INK, SOFT, RULE, FIRM = "var(--ink)", "var(--soft)", "var(--rule)", "var(--firm)"
# Named here, not by variable: the browser measures a label before it is laid out, and cannot look up a variable.
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Liberation Sans, Arial, sans-serif"
PER_FORMULA = "training, causal (formula)"
MEGATRON = "72 L h\u00b2 + 6 V h (formula)"
# How each series is drawn, the same in every chart: name, colour, shape.
SERIES = {
    "published": ("var(--c2)", "diamond"), PER_FORMULA: ("var(--c1)", "circle"), "formula": ("var(--c1)", "circle"),
    "counted": ("var(--c3)", "triangle-up"), "measured": ("var(--c4)", "cross"), MEGATRON: (FIRM, "square"),
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "labelColor": SOFT, "titleColor": SOFT, "gridColor": RULE, "domainColor": FIRM, "tickColor": FIRM, "labelFont": FONT,
        "titleFont": FONT, "labelFontSize": 11.5, "titleFontSize": 11.5, "titleFontWeight": "normal", "labelLimit": 160,
    },
    "axisY": {"grid": False, "ticks": False, "domain": False, "labelColor": INK, "labelPadding": 8},
    "legend": {"labelColor": INK, "labelFont": FONT, "labelFontSize": 11.5, "orient": "top", "columns": 2, "labelLimit": 240},
    "text": {"font": FONT, "fontSize": 11.5},
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A chart to be laid out: anchor, caption, what to know when reading it, its Vega-Lite specification."""

    id: str
    caption: str
    note: str
    spec: dict[str, Any]


def drawing(id: str, caption: str, note: str, chart: alt.LayerChart, height: int) -> Drawing:
    chart = chart.properties(width="container", height=height, autosize={"type": "fit", "contains": "padding"})
    return Drawing(id, caption, note, {**chart.to_dict(), "$schema": SCHEMA, "config": CONFIG})


def stated(judged: Sequence[Judged], metric: str, factor: float) -> pd.DataFrame:
    """What claims print, and what was counted and measured for them, of one metric: model, series, value, claim.

    factor: from SI to the unit drawn. Proxies are left out: they are not the model that the row is named after.
    """
    found = []
    for one in judged:
        picks = [
            e.pick for e in one.claim.evidence if e.pick is not None and e.over is None and e.pick.metric == metric
        ]
        printed, unit = one.claim.published.number, one.claim.published.unit
        if not picks or isinstance(printed, tuple):
            continue
        subject = picks[0].subject
        found.append(
            {"model": subject, "series": "published", "value": to_si(printed, unit) * factor, "claim": one.claim.id}
        )
        found += [
            {"model": subject, "series": row.basis, "value": to_si(row.value, unit) * factor, "claim": one.claim.id}
            for row in one.evidence
            if row.basis in ("counted", "measured") and row.scale != "proxy"
        ]
    return pd.DataFrame(found, columns=["model", "series", "value", "claim"]).drop_duplicates(
        ["model", "series", "value"]
    )


def marks(frame: pd.DataFrame, x: Any, y: Any, **more: Any) -> alt.Chart:
    """Points in the colour and shape of their series, with a legend."""
    import altair as alt

    names = [name for name in SERIES if name in set(frame["series"])]
    colours, shapes = zip(*(SERIES[name] for name in names), strict=True)
    legend = alt.Legend(title=None, symbolStrokeWidth=2)
    return (
        alt.Chart(frame)
        .mark_point(size=70, strokeWidth=2)
        .encode(
            x=x, y=y,
            color=alt.Color("series:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
            shape=alt.Shape("series:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
            **more,
        )
    )  # fmt: skip


def kv_charts(described: model_tables.Descriptions, judged: Sequence[Judged]) -> list[Drawing]:
    """KV bytes per token by model, and per sequence from 4K to 128K tokens."""
    return [kv_per_token(described, judged), kv_per_sequence(described)]


def kv_per_token(described: model_tables.Descriptions, judged: Sequence[Judged]) -> Drawing:
    import altair as alt

    names = model_tables.released(described)
    frame = model_tables.kv_frame({name: described[name] for name in names}).sort_values("bf16", kind="stable")
    order = frame["model"].tolist()
    frame = pd.DataFrame({"model": frame["model"], "series": "formula", "value": frame["bf16"] / 1e3})
    frame["label"] = [number(value, 6) for value in frame["value"]]
    x = alt.X(
        "value:Q",
        title="kB per token, BF16 (1 kB = 1,000 B)",
        axis=alt.Axis(tickCount=6),
        scale=alt.Scale(domainMax=600),
    )
    y = alt.Y("model:N", sort=order, title=None)
    tip = [alt.Tooltip("model:N"), alt.Tooltip("series:N", title="basis"), alt.Tooltip("value:Q", title="kB per token")]
    bars = (
        alt.Chart(frame).mark_bar(color="var(--c1)", opacity=0.28, height={"band": 0.62}).encode(x=x, y=y, tooltip=tip)
    )
    labels = alt.Chart(frame).mark_text(align="left", dx=11, color=INK).encode(x=x, y=y, text="label:N")
    layers: list[Any] = [bars, labels]
    points = stated(judged, "kv_bytes_per_token", 1e-3)
    points = points[points["model"].isin(order)]
    if len(points):
        layers.append(marks(points, x, y, tooltip=tip))
    note = "Bars: formula. Marks: what the paper prints, and what was counted or measured at full scale in these runs."
    return drawing("kv-per-token", "KV cache per token", note, alt.layer(*layers), 30 * len(order) + 40)


def kv_per_sequence(described: model_tables.Descriptions) -> Drawing:
    import altair as alt

    frame = model_tables.sequence_frame({name: described[name] for name in model_tables.released(described)})
    frame = frame.assign(value=frame["bytes"] / 1e9, length=[f"{tokens // 1024}K" for tokens in frame["tokens"]])
    order = frame.groupby("model", sort=False)["value"].max().sort_values(kind="stable").index.tolist()
    x = alt.X("value:Q", title="GB per sequence, BF16, logarithmic (1 GB = 1e9 B)", scale=alt.Scale(type="log", domain=[0.1, 100]),
              axis=alt.Axis(values=[0.1, 0.3, 1, 3, 10, 30, 100], format="~g"))  # fmt: skip
    y = alt.Y("model:N", sort=order, title=None)
    tip = [
        alt.Tooltip("model:N"),
        alt.Tooltip("tokens:Q", format=","),
        alt.Tooltip("value:Q", title="GB", format=".4~f"),
    ]
    lines = alt.Chart(frame).mark_line(color="var(--c1)", opacity=0.45).encode(x=x, y=y, detail="model:N")
    dots = alt.Chart(frame).mark_circle(size=52, color="var(--c1)", opacity=1).encode(x=x, y=y, tooltip=tip)
    names = alt.Chart(frame[frame["model"].isin([order[0], order[-1]])]).mark_text(dy=-11, color=SOFT, fontSize=10.5)
    note = "From left to right 4K, 8K, 16K, 32K, 64K and 128K tokens (4K = 4,096). Formula; one sequence, no batch."
    layered = alt.layer(lines, dots, names.encode(x=x, y=y, text="length:N"))
    return drawing("kv-per-sequence", "KV cache per sequence", note, layered, 32 * len(order) + 40)


def flops_charts(described: model_tables.Descriptions, judged: Sequence[Judged]) -> list[Drawing]:
    """GFLOP per token of training: as published, on one accounting for all, counted, and the dense rows' formula."""
    import altair as alt

    points = stated(judged, "flops_per_token", 1e-9)
    names = [name for name in described if name in set(points["model"])]
    if not names:
        return []
    rows = {name: {row["name"]: row["gflops_per_token"] for row in described[name]["conventions"]} for name in names}
    formulas = [
        {"model": name, "series": series, "value": rows[name][convention], "claim": ""}
        for name in names
        for series, convention in ((PER_FORMULA, "train_causal"), (MEGATRON, "megatron_without_attention"))
    ]
    frame = pd.concat([points[points["model"].isin(names)], pd.DataFrame(formulas)], ignore_index=True)
    frame["label"] = [number(value, 6) if value < 1000 else f"{value:,.1f}" for value in frame["value"]]
    order = [name for name in SERIES if name in set(frame["series"])]
    x = alt.X("value:Q", title="GFLOP per token, logarithmic", scale=alt.Scale(type="log", domain=[100, 6000]),
              axis=alt.Axis(values=[100, 200, 500, 1000, 2000, 5000], format=","))  # fmt: skip
    y = alt.Y("model:N", sort=names, title=None)
    offset = alt.YOffset("series:N", sort=order)
    tip = [
        alt.Tooltip("model:N"),
        alt.Tooltip("series:N"),
        alt.Tooltip("value:Q", title="GFLOP per token", format=",.2f"),
    ]
    labels = (
        alt.Chart(frame)
        .mark_text(align="left", dx=10, color=INK, fontSize=10.5)
        .encode(x=x, y=y, yOffset=offset, text="label:N")
    )
    layered = alt.layer(marks(frame, x, y, yOffset=offset, tooltip=tip), labels)
    note = (
        f"Training at {model_tables.SEQ_LEN:,} tokens. Where the published mark stands on the square and not on the circle, "
        "the figure comes from the dense approximation and holds no attention."
    )
    return [
        drawing(
            "gflops-published", "GFLOP per token: published, on one accounting, counted", note, layered, 84 * len(names)
        )
    ]
