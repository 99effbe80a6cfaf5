"""The report's charts as Vega-Lite specifications, made by Altair. Every number in them stands in a table too.

Nothing is drawn here: the browser draws, through vega-embed with its expression interpreter, which needs no eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from v3bench.suite.laws import kv
from v3bench.suite.ledger.units import to_si
from v3bench.suite.ledger.verdict import Judged
from v3bench.suite.report import model_tables
from v3bench.suite.report.chart_style import INK, MEGATRON, PER_FORMULA, SERIES, SOFT, Drawing, drawing, marks
from v3bench.suite.report.display import number


def stated(judged: Sequence[Judged], metric: str, factor: float) -> pd.DataFrame:
    """What claims print, and what was counted and measured for them, of one metric: model, series, value, claim.

    factor: from SI to the unit drawn. Slices and proxies are left out: they are not the whole model of the row's name.
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
            if row.basis in ("counted", "measured") and row.scale == "full"
        ]
    return pd.DataFrame(found, columns=["model", "series", "value", "claim"]).drop_duplicates(
        ["model", "series", "value"]
    )


def kv_charts(described: model_tables.Descriptions, judged: Sequence[Judged]) -> list[Drawing]:
    """KV bytes per token by model, and per sequence from 4K to 128K tokens."""
    return [kv_per_token(described, judged), kv_per_sequence(described)]


def kv_per_token(described: model_tables.Descriptions, judged: Sequence[Judged]) -> Drawing:
    """A bar per released model by formula, kB; marks for what was published, counted and measured."""
    import altair as alt

    names = model_tables.released(described)
    frame = model_tables.kv_frame({name: described[name] for name in names}).sort_values("bf16", kind="stable")
    order = frame["model"].tolist()
    frame = pd.DataFrame({"model": frame["model"], "series": "formula", "value": frame["bf16"] / 1e3})
    frame["label"] = [number(value, 6) for value in frame["value"]]
    room = alt.Scale(domainMax=frame["value"].max() * 1.3)  # for the longest bar's label
    x = alt.X("value:Q", title="kB per token, BF16 (1 kB = 1,000 B)", axis=alt.Axis(tickCount=6), scale=room)
    y = alt.Y("model:N", sort=order, title=None)
    tip = [alt.Tooltip("model:N"), alt.Tooltip("series:N", title="basis"), alt.Tooltip("value:Q", title="kB per token")]
    strong = alt.condition(f"datum.model === '{model_tables.REFERENCE}'", alt.value(0.6), alt.value(0.25))
    bars = alt.Chart(frame).mark_bar(color="var(--c1)", size=15).encode(x=x, y=y, opacity=strong, tooltip=tip)
    labels = alt.Chart(frame).mark_text(align="left", dx=11, color=INK).encode(x=x, y=y, text="label:N")
    layers: list[Any] = [bars, labels]
    points = stated(judged, "kv_bytes_per_token", 1e-3)
    points = points[points["model"].isin(order)]
    if len(points):
        layers.append(marks(points, x, y, tooltip=tip))
    note = "Bars: formula. Marks: what the paper prints, and what was counted or measured at full scale in these runs."
    return drawing("kv-per-token", "KV cache per token", note, alt.layer(*layers), 30 * len(order) + 40)


def kv_per_sequence(described: model_tables.Descriptions) -> Drawing:
    """A line per released model by formula, GB, with a dot for each length."""
    import altair as alt

    frame = model_tables.sequence_frame({name: described[name] for name in model_tables.released(described)})
    frame = frame.assign(value=frame["bytes"] / 1e9, length=[f"{tokens // 1024}K" for tokens in frame["tokens"]])
    order = frame.groupby("model", sort=False)["value"].max().sort_values(kind="stable").index.tolist()
    x = alt.X("value:Q", title="GB per sequence, BF16 (logarithmic)", scale=alt.Scale(type="log", domain=[0.1, 100]),
              axis=alt.Axis(values=[0.1, 0.3, 1, 3, 10, 30, 100], format="~g"))  # fmt: skip
    y = alt.Y("model:N", sort=order, title=None)
    size = alt.Tooltip("value:Q", title="GB", format=".4~f")
    tip = [alt.Tooltip("model:N"), alt.Tooltip("tokens:Q", format=","), size]
    lines = alt.Chart(frame).mark_line(color="var(--c1)", opacity=0.45).encode(x=x, y=y, detail="model:N")
    dots = alt.Chart(frame).mark_circle(size=52, color="var(--c1)", opacity=1).encode(x=x, y=y, tooltip=tip)
    # Every other length is named, in the first row and the last: more would not fit a phone.
    named = frame[frame["model"].isin([order[0], order[-1]]) & frame["tokens"].isin(kv.CONTEXTS[1::2])]
    names = alt.Chart(named).mark_text(dy=-11, color=SOFT, fontSize=10.5).encode(x=x, y=y, text="length:N")
    note = (
        "From left to right 4K, 8K, 16K, 32K, 64K and 128K tokens (4K = 4,096). "
        "Formula; one sequence, no batch; 1 GB is 1,000,000,000 B."
    )
    layered = alt.layer(lines, dots, names)
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
    frame["label"] = [number(value, 5) for value in frame["value"]]
    order = [name for name in SERIES if name in set(frame["series"])]
    x = alt.X("value:Q", title="GFLOP per token (logarithmic)", scale=alt.Scale(type="log", domain=[100, 6000]),
              axis=alt.Axis(values=[100, 200, 500, 1000, 2000, 5000], format=","))  # fmt: skip
    y = alt.Y("model:N", sort=names, title=None)
    offset = alt.YOffset("series:N", sort=order)
    tip = [alt.Tooltip("model:N"), alt.Tooltip("series:N"), alt.Tooltip("value:Q", title="GFLOP", format=",.2f")]
    text = alt.Chart(frame).mark_text(align="left", dx=10, color=INK, fontSize=10.5)
    labels = text.encode(x=x, y=y, yOffset=offset, text="label:N")
    layered = alt.layer(marks(frame, x, y, yOffset=offset, tooltip=tip), labels)
    note = (
        f"Training at {model_tables.SEQ_LEN:,} tokens. Where the published mark stands on the square and not on the "
        "diamond, the figure comes from the dense approximation and holds no attention."
    )
    caption = "GFLOP per token: published, on one accounting, counted"
    return [drawing("gflops-published", caption, note, layered, 84 * len(names))]
