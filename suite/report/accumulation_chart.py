"""Sums of FP8 products in few bits: what the model says, what a run measured, and what was published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import pandas as pd
from v3bench.suite.laws.numerics import FRACTION_BITS, PROMOTE, ROWS, Distribution, accumulation_error
from v3bench.suite.ledger import claims
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.meter.scale import TENSOR_CORE
from v3bench.suite.report.chart_style import INK, SOFT, TICK, Drawing, drawing
from v3bench.suite.report.current import current
from v3bench.suite.report.display import number
from v3bench.suite.report.tables import Column, Table

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
LENGTH = 4096  # V3 report, section 3.3.2
INTERVALS = (32, 64, 128, 256, 512, 0)  # products between two promotions; 0 is never
BITS = (13, 14, 15, 23)  # fraction bits: as ISCA and the report state them, one more, and FP32's
OPERANDS = get_args(Distribution)
PROMOTIONS = {"unpromoted": 0, "promoted": PROMOTE}  # by implementation
CLAIM = "fp8-accumulation-error"
COLOURS = {
    "unpromoted, uniform": "var(--c1)", "unpromoted, normal": "var(--c4)", "promoted, uniform": "var(--c3)",
    "promoted, normal": SOFT,
}  # fmt: skip
METRIC = (
    f"Largest of {ROWS} sums. Operands are rounded to E4M3 over its whole range: uniform in [0, 1), with the error "
    "relative to the exact sum; or normal, with the error over the sums' root mean square."
)


def modelled() -> pd.DataFrame:
    """K, series, error: the model at 13 fraction bits, for every length and series."""
    rows = [
        {"K": k, "series": f"{name}, {kind}", "error": accumulation_error(FRACTION_BITS, k, promote, kind)}
        for k in LENGTHS
        for kind in OPERANDS
        for name, promote in PROMOTIONS.items()
    ]
    return pd.DataFrame(rows)


def measured(records: Iterable[Measurement]) -> pd.DataFrame:
    """K, series, error of a run's records of a GPU's tensor core, the last of each."""
    found: dict[tuple[int, str], float] = {}
    for m in current(records, bench="accumulation"):
        if m.subject == TENSOR_CORE and m.metric == "relative_error" and m.impl in PROMOTIONS:
            for kind in OPERANDS:
                k = m.convention.partition(f"; {kind}, K = ")[2].partition(",")[0]
                if k.isdecimal():
                    found[int(k), f"{m.impl}, {kind}"] = m.samples[-1]
    rows = [{"K": k, "series": series, "error": error} for (k, series), error in sorted(found.items())]
    return pd.DataFrame(rows, columns=["K", "series", "error"])


def percent(value: float) -> str:
    """A share as a percentage, three digits."""
    return number(100 * value, 3, zeros=True)


def length_table(points: Sequence[pd.DataFrame], names: Sequence[str]) -> Table:
    """The chart's numbers: a row for each length; of the model, then of each run that measured."""
    frames, columns = [], []
    for name, frame in zip(("modelled", *names), (modelled(), *points), strict=True):
        if len(frame):
            wide = frame.pivot(index="K", columns="series", values="error")
            order = [series for series in COLOURS if series in wide]
            frames.append(wide[order].add_prefix(f"{name}: "))
            columns += [Column(f"{name}: {series}", f"{series}, {name}, %", True, percent) for series in order]
    whole = pd.concat(frames, axis=1).reset_index()
    caption = f"Error of a sum of K products of FP8, {FRACTION_BITS} fraction bits"
    return Table(caption, (Column("K", "K"), *columns), whole, METRIC)


def interval_table() -> Table:
    """By the model, at one length: a row for each interval of promotion, a column for each number of bits."""
    rows = [
        {"interval": interval}
        | {f"{kind} {bits}": accumulation_error(bits, LENGTH, interval, kind) for kind in OPERANDS for bits in BITS}
        for interval in INTERVALS
    ]
    columns = [Column(f"{kind} {bits}", f"{kind}, {bits} bits, %", True, percent) for kind in OPERANDS for bits in BITS]
    caption = f"The same at K = {LENGTH:,} by interval of promotion and fraction bits, modelled"
    every = Column("interval", "Promoted every", show=lambda interval: number(interval) if interval else "never")
    return Table(caption, (every, *columns), pd.DataFrame(rows), METRIC)


def accumulation_chart(points: Sequence[pd.DataFrame]) -> Drawing:
    """Error over K, both logarithmic: the model's lines, measured points, the published figure."""
    import altair as alt

    frame = drawable(modelled(), "circle", "modelled")
    seen = [drawable(one, "diamond", "measured") for one in points if len(one)]
    published = claims.read(CLAIM).published
    assert not isinstance(published.number, tuple)
    mark = pd.DataFrame({"K": [LENGTH], "error": [published.number], "text": [f"published: {published.printed}"]})
    x = alt.X("K:Q", title="products in a sum, K (logarithmic)", scale=alt.Scale(type="log", base=2, nice=False),
              axis=alt.Axis(values=list(LENGTHS), format=",d"))  # fmt: skip
    y = alt.Y("error:Q", title="error, % (logarithmic)", scale=alt.Scale(type="log"),
              axis=alt.Axis(values=[0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30], format="~g", grid=True))  # fmt: skip
    by_series = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    colour = alt.Color("series:N", scale=by_series, legend=alt.Legend(title=None, symbolStrokeWidth=2))
    tip = [
        alt.Tooltip("series:N"), alt.Tooltip("basis:N"), alt.Tooltip("K:Q", format=",d"),
        alt.Tooltip("told:N", title="error"),
    ]  # fmt: skip
    lines = alt.Chart(frame).mark_line(strokeWidth=1.5).encode(x=x, y=y, color=colour)
    dots = alt.Chart(pd.concat([frame, *seen], ignore_index=True)).mark_point(size=60, strokeWidth=2)
    dots = dots.encode(x=x, y=y, color=colour, shape=alt.Shape("shape:N", scale=None), tooltip=tip)
    tick = alt.Chart(mark).mark_point(size=90, strokeWidth=2, shape=TICK, color="var(--c2)").encode(x=x, y=y)
    label = alt.Chart(mark).mark_text(align="right", dx=10, dy=20, color=INK).encode(x=x, y=y, text="text:N")
    note = (
        f"{METRIC} Promoted: moved to FP32 every {PROMOTE} products. Lines: modelled, {FRACTION_BITS} fraction bits. "
        f"{'Diamonds: measured on a GPU in these runs. ' if seen else ''}"
        "The published figure names neither distribution nor measure."
    )
    caption = "Error of a sum of FP8 products in few bits, with and without promotion"
    return drawing("fp8-accumulation", caption, note, alt.layer(lines, dots, tick, label), 380)


def drawable(frame: pd.DataFrame, shape: str, basis: str) -> pd.DataFrame:
    """The frame in percent, to six digits, as text too, and how its points are drawn."""
    shown = [float(f"{100 * error:.6g}") for error in frame["error"]]
    told = [f"{number(error, 3)}%" for error in shown]
    return frame.assign(error=shown, told=told, shape=shape, basis=basis)
