"""Two tokens over one at full size, part by part, as a run has measured it: beside the byte model's ratio."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import pandas as pd
from v3bench.model_ref.config import Config
from v3bench.suite import models
from v3bench.suite.laws.speculation import Deployment, part_growth
from v3bench.suite.meter.statistics import summary
from v3bench.suite.mtp import conventions
from v3bench.suite.mtp.conventions import DENSE_FFN, EXPERTS, HEAD, MLA, PROJECTION, SHARED, OfPart
from v3bench.suite.report.current import current
from v3bench.suite.report.display import fixed, number
from v3bench.suite.report.rooflines import ceilings
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.run_folder import Run

PARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {  # impl -> what it is, and its names in laws/speculation.py
    MLA: ("attention and its cache", ("attention", "cache")),
    DENSE_FFN: ("dense layer's FFN", ("dense_ffn",)),
    SHARED: ("shared expert", ("shared_experts",)),
    EXPERTS: ("routed experts", ("routed_experts",)),
    PROJECTION: ("MTP's eh_proj", ("mtp_projection",)),
    HEAD: ("head", ("head",)),
}
NOTE = (
    "Time of a decode step's part with two tokens of each request over the same with one, in turns, at the released "
    "model's own sizes with random weights: medians, and their 95 % intervals. By bytes: what reading each weight that "
    "is needed once, and each cache once, makes of it. The rate is what the step of two tokens so reaches; of reading: "
    "of the rate at which this GPU reads. Of the routed experts of several GPUs, one GPU's with a balanced share of "
    "tokens. A CPU's library may take a product with two rows for two products, each of which reads the matrix."
)


def parts_table(run: Run, who: str) -> Table:
    """A row for each part, batch and share of the experts."""
    found: dict[tuple[str, str, str, OfPart], dict[str, tuple[float, ...]]] = {}
    for m in current(run.measurements, area="mtp", bench="parts"):
        at = conventions.parse_part(m.convention)
        if at and m.impl in PARTS and (m.metric == "step_cost" or at.tokens == 2):
            found.setdefault((m.subject, m.impl, m.precision, at), {})[m.metric] = m.samples
    order, reads = list(PARTS), ceilings(run).read
    rows = []
    for key in sorted(found, key=lambda key: (key[0], order.index(key[1]), key[3].ep, key[3].batch)):
        (subject, impl, precision, at), samples = key, found[key]
        row = {"part": PARTS[impl][0], "precision": precision, "batch": at.batch, "model": by_bytes(subject, impl, at)}
        row |= {"share": f"EP{at.ep}" if at.ep else "", "context": at.context}
        if "step_cost" in samples:
            told = summary(samples["step_cost"])
            row |= {"cost": told.median, "range": "" if told.low is None else f"{two(told.low)} to {two(told.high)}"}
        if "byte_rate" in samples:
            rate = median(samples["byte_rate"])
            row |= {"rate": rate / 1e9, "of": 100 * rate / reads if reads else None}
        rows.append(row)
    columns = (
        Column("part", "Part"), Column("share", "Experts"), Column("precision", "Precision"),
        Column("batch", "Requests a GPU", True), Column("context", "Context", True, number),
        Column("cost", "Two tokens over one", True, two), Column("range", "95 %"),
        Column("model", "By bytes", True, two), Column("rate", "Rate, GB/s", True, lambda value: number(value, 3)),
        Column("of", "Of reading, %", True, lambda value: fixed(value, 0)),
    )  # fmt: skip
    frame = pd.DataFrame(rows, columns=[column.key for column in columns])
    return Table(f"Two tokens over one, full-size parts{who}", columns, frame, NOTE)


def by_bytes(preset: str, impl: str, at: OfPart) -> float | None:
    """The byte model's ratio for this part; None for what is no preset."""
    config = models.load(preset)[1] if preset in models.presets() else None
    if not isinstance(config, Config):
        return None
    where = Deployment(ep=at.ep or 1, batch=at.batch, context=at.context)
    return part_growth(config, where, PARTS[impl][1])


def two(value: float | None) -> str:
    """Two decimals."""
    return "" if value is None else fixed(value)
