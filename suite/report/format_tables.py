"""Narrow formats for what is kept and what is sent: caches, what is still found in them, and experts' messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

import pandas as pd
from v3bench.suite.ledger import cases
from v3bench.suite.ledger.cases import Case
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.report.accumulation_chart import percent
from v3bench.suite.report.current import current
from v3bench.suite.report.display import fixed, number, three
from v3bench.suite.report.layer_chart import turned
from v3bench.suite.report.tables import Column, Table

ROOT_MEAN_SQUARE = "root mean square"
BYTES, LOSS = "kv_bytes_per_token_and_layer", "answer_loss"
ByFormat = dict[str, dict[str, float]]  # format -> context -> value
Placed = dict[tuple[str, str], ByFormat]  # metric, what it is of
CACHE_NOTE = (
    "Attention of one layer over the cache, its error against that over the exact cache: root mean square over that of "
    "the result, all heads; bytes as stored, scales and unfilled groups included. In the longest context also the head "
    "that errs most, and how far the cosine of all heads lies from 1: of several layers the worst. A window drops old "
    "tokens, and its error is what they held."
)
LOST_NOTE = (
    "Share of the attention weights, over the whole cache, that lies on tokens which the window has dropped: mean of "
    "the heads, and in the longest context the head that loses most, of several layers the worst. No other format "
    "drops a token."
)
RETRIEVAL_NOTE = (
    "Share of right answers of a small model trained to recall pairs, over a cache in each format, by how many tokens "
    "back the answer lies; loss is the mean cross-entropy of all answers."
)
TRANSPORT_NOTE = (
    "Root mean square of the error over that of the values, which large ones decide; each value: the mean of each "
    "one's error over itself, where small ones count as large ones do. Bytes with scales. The published statement is "
    "about training models of about 7B, which this is not."
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
    """For each subject what each format costs and errs, then what windows lose of the attention."""
    tables = []
    for subject in dict.fromkeys(m.subject for m in records):
        found: Placed = {}
        own = [m for m in records if m.subject == subject]
        ends = {place_of(m.convention)[1].partition("; ")[2] for m in own}
        shared = next(iter(ends)) if len(ends) == 1 else ""  # said once, above the table
        for m in own:
            which, place = place_of(m.convention)
            place = place.removesuffix(f"; {shared}")
            found.setdefault((m.metric, which), {}).setdefault(m.impl, {})[place] = median(m.samples)
        of = f"{subject}{f', {shared}' if shared else ''}{who}"
        tables.append(cost_table(f"Cache formats, {of}", found, f"{CACHE_NOTE} Why: {case.why}."))
        if lost := found.get(("attention_lost", "mean of the heads")):
            worst = found.get(("attention_lost", "worst head"), {})
            tables.append(lost_table(f"Attention lost to windows, {of}", lost, worst))
    return tables


def place_of(convention: str) -> tuple[str, str]:
    """What a figure of a cache is of, "" where it needs no saying, and its context: '8192 tokens; gaussian'."""
    which, _, place = convention.partition("; ")
    if which.endswith(" tokens"):
        which, place = "", convention
    return which, place.split("; trained")[0]


def cost_table(caption: str, found: Placed, note: str) -> Table:
    """A row for each format: bytes of a token in the longest context, the error by context, then the worst."""
    errors = found.get(("relative_error", ROOT_MEAN_SQUARE), {})
    far = {
        BYTES: longest(found.get((BYTES, ""), {}), max),
        "worst": longest(found.get(("worst_row_error", "a row is a head"), {}), max),
        "cosine": longest(found.get(("cosine", "all heads"), {}), min),
    }
    rows = [
        {"format": name, **errors.get(name, {}), **{key: values.get(name) for key, values in far.items()}}
        | {"turned": turned(far["cosine"].get(name))}
        for name in dict.fromkeys(name for by_format in found.values() for name in by_format)
    ]
    places = contexts(errors)
    end = length(place for by_format in found.values() for place in contexts(by_format))
    columns = (
        Column("format", "Format"), Column(BYTES, "B per token", True, number),
        *(Column(place, f"{place}, %", True, percent) for place in places),
        Column("worst", f"Worst head, {end} tokens, %", True, percent),
        Column("turned", f"1 − cosine, {end} tokens", True, three),
    )  # fmt: skip
    return Table(caption, columns, pd.DataFrame(rows, columns=[column.key for column in columns]), note)


def lost_table(caption: str, lost: ByFormat, worst: ByFormat) -> Table:
    """A row for each window, a column for each context."""
    end, far = length(contexts(lost)), longest(worst, max)
    rows = [{"format": name, **values, "worst": far.get(name)} for name, values in lost.items()]
    columns = (
        Column("format", "Format"), *(Column(place, f"{place}, %", True, percent) for place in contexts(lost)),
        Column("worst", f"Worst head, {end} tokens, %", True, percent),
    )  # fmt: skip
    return Table(caption, columns, pd.DataFrame(rows, columns=[column.key for column in columns]), LOST_NOTE)


def contexts(by_format: ByFormat) -> list[str]:
    """Every context that a format has a value of."""
    return list(dict.fromkeys(place for values in by_format.values() for place in values))


def length(places: Iterable[str]) -> int:
    """Tokens of the longest context."""
    return max((int(place.partition(" tokens")[0]) for place in places), default=0)


def longest(by_format: ByFormat, pick: Callable[[Iterable[float]], float]) -> dict[str, float]:
    """Each format's value in the longest context; of several layers one is picked."""
    end = length(contexts(by_format))
    return {
        name: pick(value for place, value in values.items() if length([place]) == end)
        for name, values in by_format.items() if length(values) == end
    }  # fmt: skip


def retrieval_tables(case: Case, records: Sequence[Measurement], who: str) -> list[Table]:
    """A row for each format, a column for each distance, and the loss of all answers."""
    tables = []
    for subject in dict.fromkeys(m.subject for m in records):
        rows: dict[str, dict[str, object]] = {}
        places: dict[str, None] = {}
        for m in records:
            if m.subject == subject and m.metric in ("retrieval_accuracy", LOSS):
                place = LOSS if m.metric == LOSS else m.convention.partition("; ")[0]
                rows.setdefault(m.impl, {"format": m.impl})[place] = median(m.samples)
                places |= {} if place == LOSS else {place: None}
        columns = (
            Column("format", "Format"), *(Column(place, f"{place}, %", True, percent) for place in places),
            Column(LOSS, "Loss, nat", True, three),
        )  # fmt: skip
        frame = pd.DataFrame(list(rows.values()), columns=[column.key for column in columns])
        note = f"{RETRIEVAL_NOTE} {chance(records)}. Why: {case.why}."
        tables.append(Table(f"Retrieval, {subject}{who}", columns, frame, note))
    return tables


def chance(records: Sequence[Measurement]) -> str:
    """What a guess would reach, and how the model was trained, as the records say it."""
    said = next((m.convention.partition("; ")[2] for m in records if m.metric == "retrieval_accuracy"), "")
    share, _, rest = said.removeprefix("chance ").partition("; ")
    return f"Chance: {percent(float(share))} %; {rest}" if share else ""


def transport_tables(case: Case, records: Sequence[Measurement], who: str) -> list[Table]:
    """A row for each format: bytes of a value, then by what is sent the error of the whole and of each value."""
    rows: dict[str, dict[str, object]] = {}
    places: dict[str, None] = {}
    for m in records:
        place = m.convention.removeprefix(f"{ROOT_MEAN_SQUARE}; ").split(" trained")[0]
        row = rows.setdefault(m.subject, {"format": m.subject})
        row[m.metric if m.metric == "bytes_per_value" else f"{m.metric} {place}"] = median(m.samples)
        places[place] = None
    columns = (
        Column("format", "Format"), Column("bytes_per_value", "B per value", True, lambda value: fixed(value, 3)),
        *(
            Column(f"{metric} {place}", f"{place.replace('; ', ', ')}{what}, %", True, percent)
            for metric, what in (("relative_error", ""), ("value_error", ", each value")) for place in places
        ),
    )  # fmt: skip
    frame = pd.DataFrame(list(rows.values()), columns=[column.key for column in columns])
    return [Table(f"Experts' messages, {case.name}{who}", columns, frame, f"{TRANSPORT_NOTE} Why: {case.why}.")]


TABLES = {"cache_error": cache_tables, "retrieval": retrieval_tables, "transport": transport_tables}
