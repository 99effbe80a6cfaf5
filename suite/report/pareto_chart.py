"""Kinds of attention at equal training FLOPs: held-out loss over bytes of cache, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pandas as pd
from v3bench.suite.ledger import cases
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.report.bundle import available
from v3bench.suite.report.chart_style import FIRM, INK, Drawing, drawing
from v3bench.suite.report.current import current
from v3bench.suite.report.display import fixed, joined, number
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.run_folder import Run
from v3bench.suite.train.gap import FEWEST, interval, less

AREA = "kv_variants"
TEXT = (
    "What a smaller cache costs in quality, where the models cost the same to train: small models of one width and "
    "depth whose attention differs, what it saves given to the feed-forward networks. Proxies: nothing here is a "
    "measure of a published model."
)
NOTE = (
    "Mean over the seeds of the loss on text that was not trained on, and the range of the seeds; bytes of the cache "
    "object for one more token, all layers, bfloat16."
)
FRONT = (
    "Unbeaten: each of the others that needs no more bytes is shown to have a larger loss, and “no” where one of them "
    "is shown to have a smaller. Shown is what the difference of losses, seed by seed, says by two one-sided tests at "
    f"5 %; where the interval spans 0, or seeds are fewer than {FEWEST}, the two are not told apart."
)
COLUMNS = ["case", "kind", "bytes", "loss", "low", "high", "seeds", "flops", "losses", "text"]


def variants(records: Sequence[Measurement]) -> pd.DataFrame:
    """A row for each case and kind of attention that has a loss; COLUMNS."""
    known = cases.load()
    by_kind: dict[tuple[str, str], float] = {}
    losses: dict[tuple[str, str], tuple[float, ...]] = {}
    texts: dict[tuple[str, str], str] = {}  # what was trained on, which losses have to share to be compared
    for m in current(records, area=AREA):
        kind = m.subject.partition(".")[2]
        if m.metric == known[m.case].metric:
            if known[m.case].bench == "held_out":
                losses[m.case, kind] = m.samples
                texts[m.case, kind] = m.convention.rpartition("corpus ")[2]
            else:
                by_kind[known[m.case].bench, kind] = m.samples[-1]
    rows = [
        [case, kind, by_kind.get(("cache", kind)), fmean(found), min(found), max(found), len(found),
         by_kind.get(("flops", kind)), found,
         texts[case, kind]]
        for (case, kind), found in losses.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def unbeaten(frame: pd.DataFrame) -> list[bool]:
    """For each row, whether by the means no other of its case is better in bytes or loss and as good in the other."""
    found = []
    for row in frame.itertuples():
        others = frame[(frame["case"] == row.case) & (frame["kind"] != row.kind) & (frame["text"] == row.text)]
        better = (others["bytes"] <= row.bytes) & (others["loss"] <= row.loss)
        strictly = (others["bytes"] < row.bytes) | (others["loss"] < row.loss)
        found.append(not bool((better & strictly).any()))
    return found


def shown(frame: pd.DataFrame) -> list[str]:
    """For each row of a case whether it is unbeaten: "yes", "no", or of whom the seeds do not tell it apart."""
    found = []
    for row in frame.itertuples():
        others = frame[(frame["kind"] != row.kind) & (frame["text"] == row.text) & (frame["bytes"] <= row.bytes)]
        signs = {other.kind: larger(row.losses, other.losses) for other in others.itertuples()}
        alike = [str(kind) for kind, sign in signs.items() if sign is None]
        if True in signs.values():
            found.append("no")
        else:
            found.append(f"not told apart from {joined(alike)}" if alike else "yes")
    return found


def larger(own: Sequence[float], other: Sequence[float]) -> bool | None:
    """Whether losses are shown to be larger than another's, seed by seed, or smaller; None where neither is."""
    if len(own) != len(other) or len(own) < FEWEST:
        return None
    apart = interval(less(own, other))
    return True if apart.low > 0 else False if apart.high < 0 else None


def pareto_chart(frame: pd.DataFrame, case: str, who: str, mark: str) -> Drawing:
    """Loss over bytes, a point for each kind, the seeds' range as a line; what nothing beats is joined."""
    import altair as alt

    own = frame[frame["case"] == case].drop(columns="losses")
    own = own.assign(unbeaten=unbeaten(own))
    x = alt.X("bytes:Q", title="bytes of cache per token (logarithmic)", scale=alt.Scale(type="log", padding=20),
              axis=alt.Axis(values=sorted(own["bytes"]), format=",d"))  # fmt: skip
    y = alt.Y("loss:Q", title="held-out loss, nats per byte", scale=alt.Scale(zero=False, padding=15),
              axis=alt.Axis(grid=True, format=".3~f"))  # fmt: skip
    tip = [alt.Tooltip("kind:N"), alt.Tooltip("bytes:Q", format=",d"), alt.Tooltip("loss:Q", format=".4f"),
           alt.Tooltip("low:Q", format=".4f"), alt.Tooltip("high:Q", format=".4f")]  # fmt: skip
    front = alt.Chart(own[own["unbeaten"]]).mark_line(color=FIRM, strokeDash=[4, 3]).encode(x=x, y=y, detail="text:N")
    spans = alt.Chart(own).mark_rule(strokeWidth=2, color="var(--c4)").encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    points = alt.Chart(own).mark_point(size=90, strokeWidth=2, color="var(--c1)").encode(x=x, y=y, tooltip=tip)
    labels = alt.Chart(own).mark_text(align="left", dx=9, color=INK).encode(x=x, y=y, text="kind:N")
    caption = f"Held-out loss over bytes of cache, {case}{who}"
    note = (
        f"{NOTE} Joined: those that by these means no other beats in both; the table says which of them the seeds do "
        f"not tell apart. Why: {cases.load()[case].why}."
    )
    return drawing(f"kv-variants-{case}{mark}", caption, note, alt.layer(front, spans, points, labels), 340)


def variant_table(frame: pd.DataFrame, case: str, who: str) -> Table:
    """The chart's numbers."""
    own = frame[frame["case"] == case]
    own = own.assign(front=shown(own))
    note = f"{NOTE} {FRONT}"
    if own["text"].nunique() > 1:
        note += " They were trained on different texts, and only those of one text are compared."
    columns = (
        Column("kind", "Attention"), Column("bytes", "Cache, B per token", True), Column("loss", "Loss", True, three),
        Column("low", "Lowest seed", True, three), Column("high", "Highest seed", True, three),
        Column("seeds", "Seeds", True), Column("front", "Unbeaten"),
        Column("flops", "Training, MFLOP per token", True, lambda flops: number(flops * 1e-6)),
    )  # fmt: skip
    return Table(f"Held-out loss and cache, {case}{who}", columns, own, note)


def three(loss: float) -> str:
    """Three decimals."""
    return fixed(loss, 3)


def variant_parts(runs: Sequence[Run], note: str) -> list[dict[str, Any]]:
    """The chapter, where a run has the area; ``note`` stands in place of charts that cannot be drawn."""
    tables: list[Table] = []
    charts: list[Drawing] = []
    for i, run in enumerate(runs, 1):
        frame, (who, mark) = variants(run.measurements), (f", run {i}", f"-{i}") if len(runs) > 1 else ("", "")
        for case in dict.fromkeys(frame["case"]):
            tables.append(variant_table(frame, case, who))
            if available() and frame["bytes"].notna().all():
                charts.append(pareto_chart(frame, case, who, mark))
    if not tables:
        return []
    title = "Kinds of attention"
    part = {"id": "kv-variants-loss", "title": title, "text": TEXT, "charts": charts, "tables": tables}
    return [part | {"note": "" if available() else note}]
