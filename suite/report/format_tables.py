"""Narrow formats for what is kept and what is sent: caches, what is still found in them, and experts' messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import pandas as pd
from v3bench.suite.ledger import cases
from v3bench.suite.ledger.cases import Case
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.report.accumulation_chart import percent
from v3bench.suite.report.current import current
from v3bench.suite.report.display import fixed, number
from v3bench.suite.report.tables import Column, Table

NORM = "root mean square; "
BYTES = "kv_bytes_per_token_and_layer"
CACHE_NOTE = (
    "Attention of one layer over the cache, its error against that over the exact cache: root mean square over that of "
    "the result, all heads; bytes as stored, scales and unfilled groups included. A window drops old tokens, and its "
    "error is what they held."
)
RETRIEVAL_NOTE = (
    "Share of right answers of a small model trained to recall pairs, over a cache in each format, by how many tokens "
    "back the answer lies."
)
TRANSPORT_NOTE = (
    "Root mean square of the error over that of the values; bytes with scales. The published statement is about "
    "training models of about 7B, which this is not."
)


def format_tables(records: Sequence[Measurement], who: str) -> list[Table]:
    """The tables of a run, one for each subject of a case that has records."""
    tables = []
    for bench, make in TABLES.items():
        by_case: dict[str, list[Measurement]] = {}
        for m in current(records, bench=bench):
            by_case.setdefault(m.case, []).append(m)
        for case in cases.load().values():
            tables += make(case, by_case[case.name], who) if case.name in by_case else []
    return tables


def cache_tables(case: Case, records: Sequence[Measurement], who: str) -> list[Table]:
    """A row for each format: bytes of a token in the longest context, then the error by length of context."""
    tables = []
    for subject in dict.fromkeys(m.subject for m in records):
        rows: dict[str, dict[str, object]] = {}
        for m in records:
            if m.subject == subject and m.metric in (BYTES, "relative_error"):
                place = m.convention.removeprefix(NORM).split("; trained")[0]
                key = BYTES if m.metric == BYTES else place
                rows.setdefault(m.impl, {"format": m.impl})[key] = median(m.samples)  # of bytes the last: the longest
        places = list(dict.fromkeys(key for row in rows.values() for key in row if key not in ("format", BYTES)))
        columns = (
            Column("format", "Format"), Column(BYTES, "B per token", True, number),
            *(Column(place, f"{place}, %", True, percent) for place in places),
        )  # fmt: skip
        frame = pd.DataFrame(list(rows.values()), columns=[column.key for column in columns])
        tables.append(Table(f"Cache formats, {subject}{who}", columns, frame, f"{CACHE_NOTE} Why: {case.why}."))
    return tables


def retrieval_tables(case: Case, records: Sequence[Measurement], who: str) -> list[Table]:
    """A row for each format, a column for each distance."""
    return [
        Table(
            f"Retrieval, {subject}{who}",
            *wide(records, subject, "retrieval_accuracy", percent),
            f"{RETRIEVAL_NOTE} {chance(records)}. Why: {case.why}.",
        )
        for subject in dict.fromkeys(m.subject for m in records)
    ]


def wide(
    records: Sequence[Measurement], subject: str, metric: str, show: Callable[[float], str]
) -> tuple[tuple[Column, ...], pd.DataFrame]:
    """Columns and frame: a row for each implementation, a column for what its conventions begin with."""
    rows: dict[str, dict[str, object]] = {}
    for m in records:
        if (m.subject, m.metric) == (subject, metric):
            place = m.convention.partition("; ")[0]
            rows.setdefault(m.impl, {"format": m.impl})[place] = median(m.samples)
    places = list(dict.fromkeys(key for row in rows.values() for key in row if key != "format"))
    columns = (Column("format", "Format"), *(Column(place, f"{place}, %", True, show) for place in places))
    return columns, pd.DataFrame(list(rows.values()), columns=[column.key for column in columns])


def chance(records: Sequence[Measurement]) -> str:
    """What a guess would reach, and how the model was trained, as the records say it."""
    said = next((m.convention.partition("; ")[2] for m in records if m.metric == "retrieval_accuracy"), "")
    share, _, rest = said.removeprefix("chance ").partition("; ")
    return f"Chance: {percent(float(share))} %; {rest}" if share else ""


def transport_tables(case: Case, records: Sequence[Measurement], who: str) -> list[Table]:
    """A row for each format: bytes of a value, then the error by what is sent."""
    rows: dict[str, dict[str, object]] = {}
    for m in records:
        if m.metric in ("bytes_per_value", "relative_error"):
            place = m.convention.removeprefix(NORM).split(" trained")[0]
            key = m.metric if m.metric == "bytes_per_value" else place
            rows.setdefault(m.subject, {"format": m.subject})[key] = median(m.samples)
    places = [key for key in dict.fromkeys(k for row in rows.values() for k in row) if "; " in key]
    columns = (
        Column("format", "Format"), Column("bytes_per_value", "B per value", True, lambda value: fixed(value, 3)),
        *(Column(place, f"{place.replace('; ', ', ')}, %", True, percent) for place in places),
    )  # fmt: skip
    frame = pd.DataFrame(list(rows.values()), columns=[column.key for column in columns])
    return [Table(f"Experts' messages, {case.name}{who}", columns, frame, f"{TRANSPORT_NOTE} Why: {case.why}.")]


TABLES = {"cache_error": cache_tables, "retrieval": retrieval_tables, "transport": transport_tables}
