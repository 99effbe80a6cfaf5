"""How the report's charts look: the page's own colours, one shape per series, a legend that fits a phone.

Colours are CSS variables of the page, so that a chart follows light, dark and print.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from v3bench.suite.report.bundle import SCHEMA

if TYPE_CHECKING:
    import altair as alt

INK, SOFT, RULE, FIRM = "var(--ink)", "var(--soft)", "var(--rule)", "var(--firm)"
# Named here, not by variable: the browser measures a label before it is laid out, and cannot look up a variable.
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Liberation Sans, Arial, sans-serif"
PER_FORMULA = "training, causal (formula)"
MEGATRON = "72 L h\u00b2 + 6 V h (formula)"
# How each series is drawn, the same in every chart: colour and shape. The shapes can be told apart when they coincide.
TICK, DOT = "M0,-2V2", "M-0.35,0A0.35,0.35,0,1,0,0.35,0A0.35,0.35,0,1,0,-0.35,0"
SERIES = {
    "published": ("var(--c2)", TICK), PER_FORMULA: ("var(--c1)", "diamond"), "counted": ("var(--c3)", "circle"),
    "measured": ("var(--c4)", DOT), MEGATRON: (SOFT, "square"),
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "labelColor": SOFT, "titleColor": SOFT, "gridColor": RULE, "domainColor": FIRM, "tickColor": FIRM,
        "labelFont": FONT, "titleFont": FONT, "labelFontSize": 11.5, "titleFontSize": 11.5,
        "titleFontWeight": "normal", "labelLimit": 160,
    },
    "axisY": {"grid": False, "ticks": False, "domain": False, "labelColor": INK, "labelPadding": 8},
    "legend": {
        "labelColor": INK, "labelFont": FONT, "labelFontSize": 11.5, "orient": "top", "columns": 2, "labelLimit": 240,
        "titleColor": SOFT, "titleFont": FONT, "titleFontSize": 11.5, "titleFontWeight": "normal",
    },
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
    """A layered chart as wide as its place on the page."""
    chart = chart.properties(width="container", height=height, autosize={"type": "fit", "contains": "padding"})
    return Drawing(id, caption, note, {**chart.to_dict(validate=False), "$schema": SCHEMA, "config": CONFIG})


def marks(frame: pd.DataFrame, x: Any, y: Any, **more: Any) -> alt.Chart:
    """Points in the colour and shape of their series, with a legend."""
    import altair as alt

    names = [name for name in SERIES if name in set(frame["series"])]
    colours, shapes = zip(*(SERIES[name] for name in names), strict=True)
    legend = alt.Legend(title=None, symbolStrokeWidth=2)
    return (
        alt.Chart(frame)
        .mark_point(size=90, strokeWidth=2)
        .encode(
            x=x, y=y,
            color=alt.Color("series:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
            shape=alt.Shape("series:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
            **more,
        )
    )  # fmt: skip
