"""Where FP8's error arises in a model: a map of layer x product, and the same as a table; then the predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import pandas as pd
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.report.accumulation_chart import percent
from v3bench.suite.report.chart_style import Drawing, drawing
from v3bench.suite.report.current import current
from v3bench.suite.report.display import number, three
from v3bench.suite.report.tables import Column, Table

GEMMS = ("forward", "dgrad", "wgrad")  # as suite/budget/layers.py names them, which needs torch
STATES = "states"
COLUMNS = ["case", "subject", "recipe", "weight", "gemm", "error", "cosine"]
# What a table shows of each, in the order of the tables: column, caption, heading of a recipe, text of a value.
FIGURES: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("error", "Error", "{}, %", percent), ("turned", "Direction", "{}, 1 − cosine", three),
)  # fmt: skip
SHOWN = "fp8"  # the recipe that is drawn; the table has all
NOTE = (
    "Each product of one training step, the operands those of the exact run, so that a figure is one product's own: "
    "root mean square of the error over that of the result. dgrad is the input's gradient, wgrad the weight's."
)
STATES_NOTE = (
    "The states behind each layer when the whole model runs by the recipe, on text it was not trained on: bf16 in "
    "bfloat16 throughout, of the others the products alone, all else in float32."
)
LOGITS_NOTE = (
    "Predictions against those of the same weights in float32, on text they were not trained on: bf16 in bfloat16 "
    "throughout, of the others the products alone, all else in float32, so that bf16's errors are of more kinds than "
    "theirs. A proxy: a trained model of full size may be more or less sensitive."
)


def errors(records: Sequence[Measurement]) -> pd.DataFrame:
    """A row for each product and each state of a run's layers, the last record of each; COLUMNS."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for m in current(records, bench="layers"):
        weight, gemm, _ = m.convention.split("; ", 2)
        key = (m.case, m.subject.partition(".")[2], m.impl, weight, gemm)
        found.setdefault(key, {})["cosine" if m.metric == "cosine" else "error"] = median(m.samples)
    return pd.DataFrame([[*key, v.get("error"), v.get("cosine")] for key, v in found.items()], columns=COLUMNS)


def heat_map(frame: pd.DataFrame, who: str, mark: str) -> Drawing | None:
    """Layer and weight over product, the darker the larger the error; None where no run has it."""
    import altair as alt

    frame = frame[(frame["recipe"] == SHOWN) & (frame["weight"] != STATES)]
    if frame.empty:
        return None
    frame = frame.assign(percent=[float(f"{100 * error:.4g}") for error in frame["error"]])
    frame = frame.assign(text=[number(value, 3, zeros=True) for value in frame["percent"]])
    frame = frame.assign(weight=frame["subject"] + ": " + frame["weight"].str.removeprefix("layers."))
    rows = list(dict.fromkeys(frame["weight"]))
    x = alt.X("gemm:N", sort=list(GEMMS), title=None, axis=alt.Axis(orient="top", labelAngle=0))
    y = alt.Y("weight:N", sort=rows, title=None, axis=alt.Axis(labelLimit=260))
    shade = alt.Color("percent:Q", title="error, %", scale=alt.Scale(scheme="blues", domainMin=0))
    tip = [alt.Tooltip("weight:N"), alt.Tooltip("gemm:N", title="product"), alt.Tooltip("text:N", title="error, %"),
           alt.Tooltip("cosine:Q", format=".6f")]  # fmt: skip
    cells = alt.Chart(frame).mark_rect(stroke="var(--paper)").encode(x=x, y=y, color=shade, tooltip=tip)
    middle = float(frame["percent"].max()) / 2
    ink = alt.condition(f"datum.percent > {middle}", alt.value("white"), alt.value("#222"))
    labels = alt.Chart(frame).mark_text().encode(x=x, y=y, text="text:N", color=ink)
    caption = f"Error of each product of each layer in FP8, %{who}"
    return drawing(f"fp8-layers{mark}", caption, NOTE, alt.layer(cells, labels), 22 * len(rows) + 60)


def product_tables(frame: pd.DataFrame, who: str) -> list[Table]:
    """For each proxy a row for each product and a column for each recipe, then the states behind each layer.

    Each twice: the error's size, then the direction.
    """
    tables = []
    frame = frame.assign(turned=[turned(cosine) for cosine in frame["cosine"]])
    for subject, own in frame.groupby("subject", sort=False):
        for states in (False, True):
            part = own[(own["weight"] == STATES) == states]
            # As the forward pass meets them: the backward one has noted its own in the opposite order.
            weights = list(dict.fromkeys(part["weight"]))
            places = sorted(
                dict.fromkeys(zip(part["weight"], part["gemm"], strict=True)),
                key=lambda place: (weights.index(place[0]), GEMMS.index(place[1]) if place[1] in GEMMS else 0),
            )
            heads = [Column("gemm", "Where")] if states else [Column("weight", "Weight"), Column("gemm", "Product")]
            for value, figure, label, show in FIGURES:
                some = part[part[value].notna()]
                if some.empty:
                    continue
                wide = some.pivot(index=["weight", "gemm"], columns="recipe", values=value).reindex(places)
                recipes = [Column(name, label.format(name), True, show) for name in dict.fromkeys(some["recipe"])]
                caption = f"{figure} of {'the states' if states else 'each product'}, {subject}{who}"
                note = STATES_NOTE if states else NOTE
                tables.append(Table(caption, (*heads, *recipes), wide.reset_index(), note))
    return tables


def turned(cosine: float | None) -> float | None:
    """How far a cosine is from 1, which its first digits do not show; rounding may carry it beyond."""
    return None if cosine is None else max(1 - cosine, 0.0)


def recorded_table(records: Sequence[Measurement], who: str) -> Table:
    """A row for each quantiser and proxy: what it does to the inputs of the products of the layers."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for m in current(records, bench="recorded"):
        proxy = m.convention.partition("activations of ")[2].partition(",")[0]
        row = rows.setdefault((proxy, m.subject.partition(".")[2]), {})
        row |= {m.metric: median(m.samples), f"worst {m.metric}": max(m.samples), "inputs": len(m.samples)}
    columns = (
        Column("proxy", "Proxy"), Column("quantiser", "Quantiser"), Column("inputs", "Inputs", True),
        Column("relative_error", "Relative error, median, %", True, percent),
        Column("worst relative_error", "Worst, %", True, percent),
        Column("flushed", "Flushed to zero, median, %", True, percent),
        Column("worst flushed", "Worst flushed, %", True, percent),
    )  # fmt: skip
    made = [{"proxy": proxy, "quantiser": name, **values} for (proxy, name), values in rows.items()]
    note = "The inputs of every product of the layers of a trained proxy, each quantised as a whole."
    return Table(f"Recorded activations{who}", columns, pd.DataFrame(made, columns=[c.key for c in columns]), note)


def logits_table(records: Sequence[Measurement], who: str) -> Table:
    """A row for each proxy and recipe: divergence, changed choices, perplexity."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for m in current(records, bench="logits"):
        rows.setdefault((m.subject.partition(".")[2], m.impl), {})[m.metric] = median(m.samples)
    columns = (
        Column("proxy", "Proxy"), Column("recipe", "Recipe"),
        Column("kl_divergence", "KL divergence, millinat", True, lambda v: number(1e3 * v, 3, zeros=True)),
        Column("top1_flips", "Other first choice, %", True, percent),
        Column("perplexity_ratio", "Perplexity, ratio", True, lambda v: f"{v:.5f}"),
        Column("perplexity", "Perplexity, float32", True, lambda v: number(v, 3)),
    )  # fmt: skip
    made = [{"proxy": proxy, "recipe": recipe, **values} for (proxy, recipe), values in rows.items()]
    return Table(f"Predictions{who}", columns, pd.DataFrame(made, columns=[c.key for c in columns]), LOGITS_NOTE)
