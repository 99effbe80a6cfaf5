"""Acceptance as a run has it: on held-out text by draft, text and temperature, with floors; in generation; balance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.mtp import conventions
from v3bench.suite.mtp.conventions import ALL_TEXT, KINDS, LOOK_UP, MODEL, MOST_FREQUENT, NGRAM
from v3bench.suite.mtp.interval import over_files
from v3bench.suite.report.current import current
from v3bench.suite.report.display import fixed, number
from v3bench.suite.report.learning_chart import rank
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.train.gap import FEWEST
from v3bench.suite.train.proxies import PREFIX

FORCED = (
    "Accepted: the share of positions of held-out text where the draft is the main head's first choice, both on the "
    "same true prefix; at a temperature, the mean chance that sampling accepts it. True token: where the draft is the "
    "text's own. The drafters below the module are no networks: what they reach is the floor. Mean over files, each "
    "of as many positions, of a kind of text those it has, and its 95 % interval over them."
)
BITS = (
    "Cross-entropy of held-out files, by the model and by an order-5 n-gram trained on the same text: of more windows "
    "than acceptance is of, and of the files that are long enough for them, since bits scatter more. Less than it: "
    "n-gram less model, file by file; a model that does not beat the n-gram is not worth drafting for, whatever its "
    "acceptance. 95 % intervals over files."
)
GENERATED = (
    "Greedy speculative decoding: of the drafts that were tried, those accepted; beside it the share of runs of three "
    "tokens that are different ones. A model that goes in circles is drafted easily: below 30 % its acceptance says "
    "little. Held-out text is the measure, this is what a timed run had."
)
BALANCE = (
    "Tokens of the expert that gets most over the mean, less one, by layer of two models after the same first steps of "
    "training on the same text: one with updates of the bias that balances the load, one without."
)
DRAFTERS = {MODEL: "MTP module", MOST_FREQUENT: "most frequent token", LOOK_UP: LOOK_UP, NGRAM: NGRAM}
Samples = dict[str, tuple[float, ...]]  # by column


def forced_tables(records: Sequence[Measurement], who: str) -> list[Table]:
    """A table for each model and training: a row for each drafter, text and draft; floors come from other cases."""
    found: dict[tuple[str, str, str], dict[tuple[str, str, int], Samples]] = {}
    for m in current(records, area="mtp"):
        at = conventions.parse_forced(m.convention)
        if at and m.impl in DRAFTERS and m.metric in ("acceptance_rate", "draft_accuracy"):
            column = "accuracy" if at.temperature is None else f"{at.temperature:g}"
            rows = found.setdefault((m.subject, m.scale, at.about), {})
            rows.setdefault((m.impl, at.text, at.draft), {})[column] = m.samples
    order = sorted(found, key=lambda key: (rank(key[0]), key))
    return [forced_table(*key, found[key], who) for key in order]


def forced_table(
    subject: str, scale: str, about: str, found: Mapping[tuple[str, str, int], Samples], who: str
) -> Table:
    """Drafters in order of what they know, text as a whole first, drafts as they are made."""
    warm = sorted({column for samples in found.values() for column in samples} - {"0", "accuracy"}, key=float)
    order = [list(DRAFTERS), [ALL_TEXT, *KINDS]]
    rows = []
    for key in sorted(found, key=lambda key: (order[0].index(key[0]), order[1].index(key[1]), key[2])):
        impl, text, draft = key
        row: dict[str, Any] = {"drafter": DRAFTERS[impl], "text": text, "draft": draft, "range": span(found[key], "0")}
        row |= {column: fmean(samples) for column, samples in found[key].items()}
        rows.append(row | {"files": max(len(samples) for samples in found[key].values())})
    columns = (
        Column("drafter", "Drafter"), Column("text", "Text"), Column("draft", "Draft", True),
        Column("0", "Accepted, %", True, percent), Column("range", "95 % interval, %"),
        *(Column(column, f"At temperature {column}, %", True, percent) for column in warm),
        Column("accuracy", "True token, %", True, percent), Column("files", "Files", True),
    )  # fmt: skip
    frame = pd.DataFrame(rows, columns=[column.key for column in columns])
    proxy = subject.startswith(PREFIX)
    note = f"{FORCED} A proxy. The model is {about}." if proxy else f"{FORCED} At scale {scale}, on {about}."
    return Table(f"Teacher-forced acceptance, {subject}{who}", columns, frame, note)


def bits_table(records: Sequence[Measurement], who: str) -> Table:
    """A row for each model and training: bits per byte beside the n-gram's, and the difference."""
    found: dict[tuple[str, str], Samples] = {}
    for m in current(records, area="mtp"):
        about = conventions.parse_held_out(m.convention)
        if about is not None and m.metric == "bits_per_byte" and m.impl in (MODEL, NGRAM):
            found.setdefault((m.subject, about), {})[m.impl] = m.samples
    rows = []
    for (subject, about), samples in found.items():
        own, other = samples.get(MODEL, ()), samples.get(NGRAM, ())
        if own and len(own) == len(other):
            samples["less"] = tuple(b - a for a, b in zip(own, other, strict=True))
        row: dict[str, Any] = {"subject": subject, "about": about, "files": len(own or other)}
        row |= {column: fmean(values) for column, values in samples.items()}
        row |= {f"{column} range": span(samples, column, three) for column in (MODEL, "less")}
        rows.append(row)
    columns = (
        Column("subject", "Model"), Column(MODEL, "Bits per byte", True, three), Column(f"{MODEL} range", "95 %"),
        Column(NGRAM, "Order-5 n-gram", True, three), Column("less", "Less than it", True, three),
        Column("less range", "95 %"), Column("files", "Files", True), Column("about", "Text and model", below=True),
    )  # fmt: skip
    return Table(f"Bits per byte{who}", columns, pd.DataFrame(rows, columns=[c.key for c in columns]), BITS)


def generation_table(records: Sequence[Measurement], who: str) -> Table:
    """A row for each timed case, model, precision and batch: acceptance by draft, and how much is repeated."""
    found: dict[tuple[str, str, str, int], dict[str, float]] = {}
    drafts: set[int] = set()
    for m in current(records, area="mtp", bench="speculation"):
        at, of = conventions.parse_generation(m.convention), conventions.parse_batched(m.convention)
        if m.metric == "acceptance_rate" and at:
            drafts.add(at.draft)
            found.setdefault((m.case, m.subject, m.impl, at.batch), {})[f"draft {at.draft}"] = fmean(m.samples)
        elif m.metric in ("distinct_3grams", "tokens_per_step") and of:
            column = m.metric
            if m.metric == "tokens_per_step":
                column = f"tokens {conventions.parse_drafting(m.convention) or 1}"
            found.setdefault((m.case, m.subject, m.impl, of.batch), {})[column] = fmean(m.samples)
    steps = sorted({column for row in found.values() for column in row if column.startswith("tokens ")})
    rows = [dict(zip(("case", "subject", "impl", "batch"), key, strict=True)) | row for key, row in found.items()]
    columns = (
        Column("case", "Case"), Column("subject", "Model"), Column("impl", "Precision"), Column("batch", "Batch", True),
        *(Column(f"draft {draft}", f"Draft {draft}, %", True, percent) for draft in sorted(drafts)),
        *(Column(name, f"Tokens a step, D = {name.split()[1]}", True, fixed) for name in steps),
        Column("distinct_3grams", "Distinct 3-grams, %", True, percent),
    )  # fmt: skip
    frame = pd.DataFrame(rows, columns=[c.key for c in columns])
    return Table(f"Acceptance in generation{who}", columns, frame, GENERATED)


def balance_table(records: Sequence[Measurement], who: str) -> Table:
    """A row for each model and layer."""
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    trained: dict[str, None] = {}
    for m in current(records, area="mtp", bench="balance"):
        at = conventions.parse_balance(m.convention)
        if at and m.metric == "max_violation":
            row = found.setdefault((m.case, m.subject, at.layer), {})
            row["with" if at.bias else "without"] = fmean(m.samples)
            trained[at.about] = None
    rows = [
        {"subject": subject, "layer": layer, **row}
        for (_, subject, layer), row in sorted(found.items(), key=lambda one: (one[0][0], rank(one[0][1]), one[0][2]))
    ]
    columns = (
        Column("subject", "Model"), Column("layer", "Layer", True, number),
        Column("with", "With bias", True, fixed), Column("without", "Without", True, fixed),
    )  # fmt: skip
    note = f"{BALANCE} The models are {'; or '.join(trained)}."
    return Table(
        f"Expert load, max_violation{who}", columns, pd.DataFrame(rows, columns=[c.key for c in columns]), note
    )


def span(samples: Samples, column: str, show: Callable[[float], str] | None = None) -> str:
    """The 95 % interval over files as text, of shares within 0 and 1; "" of too few files."""
    values = samples.get(column, ())
    if len(values) < FEWEST:
        return ""
    found = over_files(values)
    if show is None:
        return f"{percent(max(found.low, 0.0))} to {percent(min(found.high, 1.0))}"
    return f"{show(found.low)} to {show(found.high)}"


def percent(value: float) -> str:
    """A share in percent, one decimal."""
    return fixed(100 * value, 1)


def three(value: float) -> str:
    """Three decimals."""
    return fixed(value, 3)
