"""The judged ledger as rows to be laid out: words, numbers and derivations as text, nothing left to work out.

``ledger_frame`` is the same ledger as a pandas frame, for tables and for the README.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from v3bench.suite.ledger.claims import Claim
from v3bench.suite.ledger.evidence import Row
from v3bench.suite.ledger.sources import MEANING
from v3bench.suite.ledger.verdict import Judged
from v3bench.suite.meter.measurement import AREAS
from v3bench.suite.report.derivation_view import derivation_views, sensitivity_table
from v3bench.suite.report.display import amount, number
from v3bench.suite.report.tables import Column, Table


@dataclass(frozen=True)
class Word:
    """A verdict's word: the shape and the tone it is shown in, and what it means."""

    key: str
    word: str
    tone: str
    meaning: str


# From the strongest evidence to none; the shapes fill up as the evidence gets closer to the real thing.
WORDS = (
    Word("reproduced", "reproduced", "agree", "measured at full size or a full-size slice; agrees"),
    Word("counted", "counted", "agree", "counted on the real modules; agrees"),
    Word("recomputed", "recomputed", "agree", "our own arithmetic agrees; nothing was run"),
    Word("proxy", "proxy agrees", "agree", "measured on a small model of the same architecture, not on the full one"),
    Word("model", "consistent with the model", "agree", "follows from assumptions that a measurement could refute"),
    Word("deviates", "deviates", "deviate", "our value lies outside what was published"),
    Word("ambiguous", "ambiguous", "doubt", "our evidence lies on both sides of the published value"),
    Word("untested", "not tested", "none", "nothing here can decide it yet; the row says what it needs"),
)
BY_WORD = {word.word: word for word in WORDS}
SCALES = ("full", "slice", "proxy")  # from the largest down
BASES = ("formula", "counted", "measured", "modelled")
COLUMNS = (
    "id", "area", "statement", "printed", "found", "basis", "scale", "outcome", "verdict", "word", "source", "why",
)  # fmt: skip
TESTS = {
    "equal": "equals the printed figure, rounded or cut off to its digits",
    "within": "lies within the tolerance of the published value",
    "about": "lies within the tolerance of a value the source gives only roughly",
    "between": "lies in the published range",
    "below": "lies below the published value",
    "above": "lies above the published value",
    "order": "is of the published order of magnitude, within a factor of the square root of ten",
}


def word_of(judged: Judged) -> Word:
    """The verdict's word, without what an untested claim needs."""
    return BY_WORD["not tested" if judged.outcome == "untested" else judged.verdict]


def span(row: Row) -> str:
    """A row's interval, or nothing."""
    return f"{number(row.interval[0], 6)} to {number(row.interval[1], 6)}" if row.interval else ""


def found_text(rows: Sequence[Row]) -> str:
    """The values of some evidence in short: one, or the least and the greatest of several."""
    values = sorted({row.value for row in rows})
    if not values:
        return ""
    unit = rows[0].unit
    if len(values) == 1:
        return amount(values[0], unit)
    # As few digits as tell the two apart.
    digits = next((n for n in (4, 5) if number(values[0], n) != number(values[-1], n)), 6)
    return f"{number(values[0], digits)} to {amount(values[-1], unit, digits)}"


def seen(judged: Judged, basis: str) -> str:
    """What the evidence of one basis says, in the claim's convention where it names one.

    Only the largest scale there is, never two in one range; one that is not full is marked.
    """
    meant = judged.claim.decides.convention
    rows = [row for row in judged.evidence if row.basis == basis and meant in ("", row.convention)]
    largest = next((scale for scale in SCALES if any(row.scale == scale for row in rows)), "full")
    text = found_text([row for row in rows if row.scale == largest])
    return text if largest == "full" else f"{text} ({largest})"


def commands(judged: Judged) -> list[str]:
    """What to type to get this row again: by formula, and from a run where one can count or measure it."""
    models = dict.fromkeys(row.worked.model for row in judged.evidence if row.worked and row.worked.model)
    found = [f"v3bench model {model}" for model in models]
    if any(entry.pick is not None for entry in judged.claim.evidence):
        measure = judged.claim.command or f"v3bench run --only {judged.claim.area}"
        return [*found, f"{measure} --out RUN", "v3bench claims RUN --json"]
    return [*found, "v3bench claims --json"]


def row_view(judged: Judged) -> dict[str, Any]:
    """Everything one ledger row shows, as text."""
    claim, rows = judged.claim, judged.deciding
    word = word_of(judged)
    needs = judged.verdict.removeprefix("not tested (needs ").removesuffix(")") if word.key == "untested" else ""
    return {
        "id": claim.id, "statement": claim.statement, "word": word, "outcome": judged.outcome,
        "needs": needs, "printed": claim.published.printed, "found": found_text(rows),
        "basis": judged.basis, "scale": rows[0].scale if rows else claim.decides.scale,
        "devices": list(dict.fromkeys(row.device for row in rows if row.basis == "measured" and row.device)),
        "inferred": any(row.inferred for row in rows), "why": judged.why, "errors": judged.errors,
        "source": claim.source.line(), "source_status": claim.source.status,
        "status_meaning": MEANING[claim.source.status],
        "test": claim.test, "test_meaning": TESTS[claim.test], "tested_as": tested_as(claim),
        "tolerance": "" if claim.tolerance is None else f"\u00b1 {number(claim.tolerance * 100, 3)}%",
        "tolerance_why": claim.tolerance_why, "convention": claim.decides.convention, "note": claim.note,
        "evidence": [evidence_view(row, row in rows) for row in judged.evidence],
        "derivations": derivation_views(judged), "sensitivity": sensitivity_table(judged),
        "commands": commands(judged),
    }  # fmt: skip


def tested_as(claim: Claim) -> str:
    """The number that is tested, where a phrase or a range was printed."""
    tested, unit = claim.published.number, claim.published.unit
    return f"{number(tested[0], 6)} to {amount(tested[1], unit)}" if isinstance(tested, tuple) else amount(tested, unit)


def evidence_view(row: Row, decides: bool) -> dict[str, Any]:
    return {
        "basis": row.basis, "scale": row.scale, "convention": row.convention, "value": amount(row.value, row.unit),
        "interval": span(row), "device": row.device, "origin": row.origin, "decides": decides,
        "marks": [m for m, there in (("from memory", row.remembered), ("inference", row.inferred)) if there],
    }  # fmt: skip


def ledger_frame(judged: Sequence[Judged]) -> pd.DataFrame:
    """One row per claim: id, area, statement, printed, found, basis, scale, outcome, verdict, word, source, why.

    Columns formula, counted, measured and modelled hold what the evidence of each basis says, decided or not.
    """
    rows = [
        {
            "id": one.claim.id,
            "area": one.claim.area,
            "statement": one.claim.statement,
            "printed": one.claim.published.printed,
            "found": found_text(one.deciding),
            "basis": one.basis,
            "scale": one.deciding[0].scale if one.deciding else one.claim.decides.scale,
            "outcome": one.outcome,
            "verdict": one.verdict,
            "word": word_of(one).word,
            "source": one.claim.source.line(),
            "why": one.why,
            **{basis: seen(one, basis) for basis in BASES},
        }
        for one in judged
    ]
    return pd.DataFrame(rows, columns=[*COLUMNS, *BASES])


def tally(judged: Sequence[Judged]) -> list[tuple[Word, int]]:
    """How many claims have each verdict, none left out."""
    counts = Counter(word_of(one).key for one in judged)
    return [(word, counts[word.key]) for word in WORDS]


def tally_table(judged: Sequence[Judged]) -> Table:
    """Claims by area and verdict."""
    counts = Counter((one.claim.area, word_of(one).key) for one in judged)
    areas = [area for area in AREAS if any(one.claim.area == area for one in judged)]
    rows = [{"area": area, **{word.key: counts[area, word.key] for word in WORDS}} for area in areas]
    frame = pd.DataFrame(rows, columns=["area", *(word.key for word in WORDS)])
    frame["all"] = frame[[word.key for word in WORDS]].sum(axis=1)
    columns = (
        Column("area", "Area"),
        *(Column(word.key, word.word, True) for word in WORDS),
        Column("all", "All", True),
    )
    return Table("Claims by area and verdict", columns, frame)
