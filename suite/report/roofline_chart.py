"""The roofline of a run: FLOPs per second over FLOPs per byte, logarithmic, a point for each timed case."""

from __future__ import annotations

from statistics import median

import pandas as pd
from v3bench.suite.laws import work
from v3bench.suite.report.chart_style import FIRM, SOFT, Drawing, drawing
from v3bench.suite.report.kernel_tables import KernelRun, found, is_mine, operation, timed_cases, told
from v3bench.suite.report.rooflines import Ceilings, share

# Operations with products, as they are told apart in the chart: colour and shape.
KINDS = {
    "matrix product": ("var(--c1)", "circle"), "decoding": ("var(--c4)", "diamond"), "prefill": ("var(--c3)", "square"),
}  # fmt: skip
DECODING = ("paged_mla", "paged_mla_fp8", "paged_gqa", "paged_gqa_fp8")


def kind(op: str) -> str:
    """The kind of an operation with products."""
    return "decoding" if op in DECODING else "prefill" if op.startswith("mla_prefill") else "matrix product"


def points(run: KernelRun, of: Ceilings) -> pd.DataFrame:
    """Our kernels, and one's own, at every timed case with products: FLOP per byte, TFLOP/s, share of the roofline."""
    rows = []
    for case in timed_cases():
        todo = work.of(operation(case), case.dimensions)
        for impl, m in found(run, case, "time").items():
            if m.status == "ok" and todo.flops and is_mine(impl):
                seconds = median(m.samples)
                reached = share(todo, seconds, of)
                rows.append({
                    "case": told(case), "impl": impl, "kind": kind(operation(case)),
                    "intensity": todo.flops / todo.nbytes, "rate": todo.flops / seconds * 1e-12,
                    "share": reached[0] if reached else None,
                })  # fmt: skip
    return pd.DataFrame(rows, columns=["case", "impl", "kind", "intensity", "rate", "share"])


def roofs(of: Ceilings) -> pd.DataFrame:
    """The lines: memory's slope up to each peak, then the peak."""
    rows = []
    for name, rate in (("FP8", of.fp8), ("bfloat16", of.bf16)):
        if of.read and rate:
            ridge = rate / of.read
            corners = ((1.0, of.read), (ridge, rate), (max(1e4, 2 * ridge), rate))
            rows += [{"roof": name, "intensity": x, "rate": y * 1e-12} for x, y in corners]
    return pd.DataFrame(rows, columns=["roof", "intensity", "rate"])


def roofline(run: KernelRun, of: Ceilings, mark: str = "") -> Drawing | None:
    """The chart; None where the run has no time of a product. ``mark`` tells several runs' charts apart."""
    import altair as alt

    frame, lines = points(run, of), roofs(of)
    if frame.empty:
        return None
    x = alt.X("intensity:Q", title="FLOP per byte (logarithmic)", scale=alt.Scale(type="log", domain=[1, 10000]),
              axis=alt.Axis(values=[1, 10, 100, 1000, 10000], format=","))  # fmt: skip
    y = alt.Y("rate:Q", title="TFLOP/s (logarithmic)", scale=alt.Scale(type="log"),
              axis=alt.Axis(values=[0.1, 1, 10, 100, 1000], format=",~g", grid=True))  # fmt: skip
    names = [name for name in KINDS if name in set(frame["kind"])]
    colours, shapes = zip(*(KINDS[name] for name in names), strict=True)
    legend = alt.Legend(title=None, symbolStrokeWidth=2, columns=len(KINDS))  # in one line, on a phone too
    tip = [
        alt.Tooltip("case:N"), alt.Tooltip("impl:N", title="implementation"),
        alt.Tooltip("rate:Q", title="TFLOP/s", format=",.1f"),
        alt.Tooltip("share:Q", title="of roofline", format=".0%"),
    ]  # fmt: skip
    dots = (
        alt.Chart(frame)
        .mark_point(size=70, strokeWidth=2)
        .encode(
            x=x, y=y, tooltip=tip,
            color=alt.Color("kind:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
            shape=alt.Shape("kind:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
        )
    )  # fmt: skip
    roof = alt.Chart(lines).mark_line(color=FIRM, strokeWidth=1.5).encode(x=x, y=y, detail="roof:N")
    ends = lines.groupby("roof", sort=False).tail(1)
    labels = alt.Chart(ends).mark_text(align="left", dx=5, color=SOFT).encode(x=x, y=y, text="roof:N")
    source = sorted({of.source[key] for key in ("read", "bf16", "fp8")})
    note = (
        f"Lines: what memory and tensor cores give ({', '.join(source)}). Points: our kernels and, where one was "
        "given, one's own; every number stands in the tables below. FLOPs and bytes are those that the operation "
        "needs at least."
    )
    layers = alt.layer(roof, labels, dots)
    return drawing(f"kernels-roofline{mark}", "Roofline of the kernels", note, layers, 420)
