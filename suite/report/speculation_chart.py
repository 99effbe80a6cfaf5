"""MTP's speed-up by the byte model: against batch and expert parallelism, and the acceptance that 1.8 would take."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from v3bench.model_ref.config import Config
from v3bench.suite import models
from v3bench.suite.laws import speculation
from v3bench.suite.laws.speculation import Deployment, Ridge
from v3bench.suite.ledger import claims, hardware
from v3bench.suite.report.chart_style import FIRM, INK, SOFT, Drawing, drawing
from v3bench.suite.report.display import fixed, number
from v3bench.suite.report.tables import Column, Table

PRESET = "deepseek-v3"
GPU = "h800-sxm"  # the GPU that V3 was served on
CLAIM = "mtp-speed-up-report"
ACCEPTANCE_CLAIM = "mtp-acceptance-report"  # whose lower end is the middle of ISCA's range
CONTEXT = 4096  # tokens
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # requests on each GPU
DENSE = "all layers dense"
SERIES = {  # expert parallelism -> how it is drawn
    "EP1": (1, "var(--c2)", [1, 0]), "EP8": (8, "var(--c4)", [1, 0]), "EP32": (32, "var(--c3)", [1, 0]),
    "EP128": (128, "var(--c1)", [1, 0]), "EP144": (144, "var(--c1)", [3, 3]), "EP320": (320, INK, [6, 3]),
    DENSE: (1, SOFT, [2, 2]),
}  # fmt: skip
KINDS = {
    "bytes": "by bytes alone",
    "h800": "with FLOPs, at an H800's peaks",
}
MODEL = (
    f"{CONTEXT:,} cached tokens a request; weights FP8, router, eh_proj and head BF16, cache BF16; routing uniform; "
    "attention, shared expert and head whole on every GPU. EP1 is one GPU with every expert, though none holds all of "
    "V3. The draft is one pass of the MTP module over the two tokens that were verified."
)
MEANING = {
    "bytes": "A step takes as long as its bytes do: every weight that any token needs, once, and the caches, once.",
    "h800": (
        "Each part of a step takes the longer of its bytes and its FLOPs. Kernels reach neither peak, so that real "
        "steps of two tokens rather cost more."
    ),
}


def published() -> float:
    """The published speed-up."""
    value = claims.read(CLAIM).published.number
    assert not isinstance(value, tuple)
    return value


def acceptance() -> float:
    """The published acceptance that the charts are drawn at, the lower end, as a share."""
    value = claims.read(ACCEPTANCE_CLAIM).published.number
    assert isinstance(value, tuple)
    return value[0] / 100


def ridge(kind: str) -> Ridge | None:
    """Where the GPU turns from memory-bound to compute-bound; None where only bytes count."""
    if kind == "bytes":
        return None
    fp8, bf16, bandwidth = (hardware.spec(f"{GPU}.{name}").si for name in ("fp8", "bf16", "bandwidth"))
    return Ridge(fp8 / bandwidth, bf16 / bandwidth)


def modelled(kind: str) -> pd.DataFrame:
    """batch, series, step, draft, speed_up, needed (None where no acceptance is enough): a row for each point."""
    config = models.load(PRESET)[1]
    assert isinstance(config, Config)
    rows = []
    for series, (ep, _, _) in SERIES.items():
        model = speculation.all_dense(config) if series == DENSE else config
        for batch in BATCHES:
            where = Deployment(ep=ep, batch=batch, context=CONTEXT)
            step = speculation.step_ratio(model, where, ridge=ridge(kind))
            draft = speculation.draft_cost(model, where, ridge=ridge(kind))
            gained = speculation.speed_up([acceptance()], step, draft)
            needed = speculation.acceptance_needed(published(), step, draft)
            rows.append([batch, series, step, draft, gained, needed])
    return pd.DataFrame(rows, columns=["batch", "series", "step", "draft", "speed_up", "needed"])


def batch_chart(kind: str) -> Drawing:
    """A line for each degree of expert parallelism; rules at the bound, at what is published, and at no gain."""
    import altair as alt

    frame = modelled(kind).drop(columns="needed")
    frame["told"] = [f"{fixed(value)}" for value in frame["speed_up"]]
    names = list(SERIES)
    along = alt.Axis(values=list(BATCHES), format="d", labelOverlap=True, labelSeparation=6)
    x = alt.X("batch:Q", title="requests on each GPU (logarithmic)", axis=along,
              scale=alt.Scale(type="log", base=2, nice=False))  # fmt: skip
    y = alt.Y(
        "speed_up:Q", title="speed-up", scale=alt.Scale(domain=[0.9, 2.0]), axis=alt.Axis(grid=True, format=".1f")
    )
    legend = alt.Legend(title=None, symbolType="stroke", symbolStrokeWidth=2, symbolSize=250, columns=3)
    colour = alt.Color("series:N", legend=legend, sort=names,
                       scale=alt.Scale(domain=names, range=[colour for _, colour, _ in SERIES.values()]))  # fmt: skip
    dash = alt.StrokeDash("series:N", sort=names, legend=legend,
                          scale=alt.Scale(domain=names, range=[dash for _, _, dash in SERIES.values()]))  # fmt: skip
    tip = [alt.Tooltip("series:N"), alt.Tooltip("batch:Q"), alt.Tooltip("told:N", title="speed-up"),
           alt.Tooltip("step:Q", format=".3f", title="step of two tokens"),
           alt.Tooltip("draft:Q", format=".3f", title="draft")]  # fmt: skip
    lines = alt.Chart(frame).mark_line(strokeWidth=1.8).encode(x=x, y=y, color=colour, strokeDash=dash)
    dots = alt.Chart(frame).mark_point(size=25, filled=True).encode(x=x, y=y, color=colour, tooltip=tip)
    levels = [
        (1 + acceptance(), f"1 + acceptance: {1 + acceptance():g}", "bottom"),
        (published(), f"published: {published():g}", "bottom"), (1.0, "plain decoding", "top"),
    ]  # fmt: skip
    marked = [pd.DataFrame({"batch": [BATCHES[0]], "speed_up": [at], "text": [text]}) for at, text, _ in levels]
    rules = [alt.Chart(one).mark_rule(strokeDash=[4, 3], color=FIRM).encode(y=y) for one in marked]
    labels = [
        alt.Chart(one).mark_text(align="left", dx=4, dy=-2 if side == "bottom" else 3, baseline=side, color=INK)
        .encode(x=x, y=y, text="text:N")
        for one, (_, _, side) in zip(marked, levels, strict=True)
    ]  # fmt: skip
    caption = f"Speed-up of one draft against batch and expert parallelism, {KINDS[kind]}"
    note = f"Modelled for DeepSeek-V3, acceptance {acceptance():.0%}. {MEANING[kind]} {MODEL}"
    return drawing(f"mtp-model-{kind}", caption, note, alt.layer(*rules, lines, dots, *labels), 400)


def law_tables() -> list[Table]:
    """The charts' numbers, and the acceptance that the published speed-up would take."""
    tables = []
    for kind, words in KINDS.items():
        frame = modelled(kind)
        caption = f"Speed-up of one draft, {words}, at an acceptance of {acceptance():.0%}"
        tables.append(wide(frame, "speed_up", caption, "{}", f"{MEANING[kind]} {MODEL}"))
        caption = f"Acceptance that a speed-up of {published():g} takes, {words}"
        tables.append(wide(frame, "needed", caption, "{}, %", "A dash: no acceptance is enough."))
    return tables


def wide(frame: pd.DataFrame, value: str, caption: str, label: str, note: str) -> Table:
    """A row for each batch, a column for each series."""
    show = fixed if value == "speed_up" else share
    columns = [Column(name, label.format(name), True, show) for name in SERIES]
    rows = frame.pivot(index="batch", columns="series", values=value).reset_index()
    return Table(caption, (Column("batch", "Requests a GPU", show=number), *columns), rows, note)


def share(value: float) -> str:
    """A share in percent, one decimal."""
    return fixed(100 * value, 1)


def law_charts() -> Sequence[Drawing]:
    """By bytes, then with FLOPs."""
    return [batch_chart(kind) for kind in KINDS]
