"""From evidence to verdict: one rule for every claim, which knows no number.

The test turns the published value into an interval of values that would agree. A row of the deciding basis
agrees when it lies inside with its own interval, deviates when it lies outside, and is ambiguous across the edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.claims import Claim, load
from v3bench.suite.ledger.evidence import Index, Row, index, rows, untried
from v3bench.suite.ledger.units import show
from v3bench.suite.meter.measurement import Measurement

Outcome = Literal["agrees", "deviates", "ambiguous", "untested"]
SCALES = ("full", "slice", "proxy")  # from most to least like what was published
SLACK = 1e-9  # relative; binary fractions of decimal figures


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim with its evidence and what follows from it."""

    claim: Claim
    evidence: tuple[Row, ...]
    basis: str  # that decided, or would decide
    outcome: Outcome
    verdict: str
    why: str
    deciding: tuple[Row, ...] = ()  # the rows of ``evidence`` that decided; none for an untested claim
    errors: tuple[str, ...] = ()  # evidence that broke; any of them makes the command exit 1

    @property
    def errored(self) -> bool:
        return bool(self.errors)

    def as_json(self) -> dict[str, Any]:
        """The row of ``v3bench claims --json``."""
        published = self.claim.published
        return {
            "id": self.claim.id,
            "statement": self.claim.statement,
            "source": self.claim.source.line(),
            "published": {"value": published.plain, "unit": published.unit, "test": self.claim.test},
            "convention": self.claim.decides.convention,
            "evidence": [row.as_json() for row in self.evidence],
            "outcome": self.outcome,
            "verdict": self.verdict,
            "why": self.why,
        }


def judge(claims: Sequence[Claim] | None = None, measurements: Iterable[Measurement] = ()) -> tuple[Judged, ...]:
    """Every claim (by default the ledger's) judged by its derivations and by a run's measurements."""
    run = index(measurements)
    return tuple(judge_one(claim, run) for claim in (load() if claims is None else claims))


def judge_one(claim: Claim, run: Index) -> Judged:
    """One claim judged. Evidence that raises is named in ``errors``, and then decides nothing."""
    found: list[Row] = []
    errors: list[str] = []
    for entry in claim.evidence:
        try:
            found += rows(claim, entry, run)
        except Exception as error:  # whatever breaks must be seen in the ledger, not end it
            errors.append(str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}")
    if errors:
        found_so = Weighed("untested", f"check errored: {'; '.join(errors)}", needs="its check to be repaired")
    else:
        found_so = weigh(claim, found, run)
    return Judged(
        claim=claim,
        evidence=tuple(found),
        outcome=found_so.outcome,
        basis=found_so.basis or claim.decides.basis,
        verdict=verdict(found_so.outcome, found_so.basis or claim.decides.basis, found_so.scale, found_so.needs),
        why=found_so.why,
        deciding=found_so.deciding,
        errors=tuple(errors),
    )


@dataclass(frozen=True)
class Weighed:
    """What a claim's rows come to."""

    outcome: Outcome
    why: str
    scale: str = "full"  # of the rows that decided
    needs: str = ""  # what an untested claim lacks
    basis: str = ""  # of the rows that decided
    deciding: tuple[Row, ...] = ()


def weigh(claim: Claim, found: Sequence[Row], run: Index) -> Weighed:
    """The rows of the deciding basis (or a stronger one that there is), at the best scale, against the test."""
    if claim.source.status == "memory":
        return Weighed(
            "untested", "the published value is only remembered", needs="the published value read in its source"
        )
    for basis in (*claim.decides.stronger, claim.decides.basis):
        deciding = [row for row in found if decisive(row, claim, basis)]
        sure = [row for row in deciding if not row.remembered]
        if sure:
            break
    if deciding and not sure:
        why = "its evidence leans on numbers that are only remembered"
        return Weighed("untested", why, needs=claim.needs or "a source for its inputs")
    if not sure:
        why = "; ".join(untried(claim, run)) or claim.note
        return Weighed("untested", why, needs=claim.needs or f"a run that has {claim.decides.basis} it")
    best = min((row.scale for row in sure), key=SCALES.index)
    judged = [(row, compare(row, accepts(claim))) for row in sure if row.scale == best]
    outcomes = {outcome for _, outcome in judged}
    if outcomes == {"deviates"} and len({row.value > accepts(claim)[1] for row, _ in judged}) == 2:
        outcomes = {"ambiguous"}  # conventions on both sides of the published value
    said = "; ".join(dict.fromkeys(say(row, outcome, claim, len(judged) > 1) for row, outcome in judged))
    others = [row for row in found if row not in sure and row.basis != "published"]
    why = "; ".join(part for part in (said, aside(others, accepts(claim)), claim.note) if part)
    outcome: Outcome = outcomes.pop() if len(outcomes) == 1 else "ambiguous"
    return Weighed(outcome, why, best, basis=basis, deciding=tuple(row for row, _ in judged))


def decisive(row: Row, claim: Claim, basis: str) -> bool:
    """Whether a row is of this basis, the claim's convention and a scale that counts. Raises BadInput for a circle.

    A slice has every per-layer dimension of the full model, so a measured slice counts where full is meant, unless the
    claim is of the whole model.
    """
    decides = claim.decides
    if row.basis != basis or decides.convention not in ("", row.convention):
        return False
    if claim.id in row.leans_on:
        raise BadInput("deciding evidence draws on the claim's own published value", where=claim.id)
    sliced = row.basis == "measured" and decides.scale == "full" and not decides.whole
    least = "slice" if sliced else decides.scale
    return SCALES.index(row.scale) <= SCALES.index(least)


def accepts(claim: Claim) -> tuple[float, float]:
    """The interval of values, in the claim's unit, that agree with what was published."""
    number, step = claim.published.number, claim.published.last_digit
    low, high = number if isinstance(number, tuple) else (number, number)
    slack = SLACK * max(abs(low), abs(high))
    match claim.test:
        case "equal":  # rounded or cut off to the printed digits; one whole digit more would be printed as such
            cut = step - 2 * slack
            low, high = (low - step / 2, high + cut) if low >= 0 else (low - cut, high + step / 2)
        case "between":
            low, high = low - step / 2, high + step / 2
        case "within" | "about":
            reach = abs(low) * (claim.tolerance or 0)
            low, high = low - reach, high + reach
        case "below":
            low = -math.inf
        case "above":
            high = math.inf
        case "order":
            low, high = low / math.sqrt(10), high * math.sqrt(10)
    return low - slack, high + slack


def compare(row: Row, accepted: tuple[float, float]) -> Outcome:
    """Where a row and its interval lie against the accepted values."""
    low, high = row.interval or (row.value, row.value)
    low, high = min(low, row.value), max(high, row.value)
    if accepted[0] <= low and high <= accepted[1]:
        return "agrees"
    return "deviates" if high < accepted[0] or accepted[1] < low else "ambiguous"


def verdict(outcome: Outcome, basis: str, scale: str, needs: str = "") -> str:
    """The words shown, made from outcome, deciding basis and scale. Raises BadInput for what cannot decide."""
    if outcome == "untested":
        return f"not tested (needs {needs})"
    if outcome in ("deviates", "ambiguous"):
        return outcome
    words = {"formula": "recomputed", "counted": "counted", "modelled": "consistent with the model"}
    if basis == "measured":
        return "proxy agrees" if scale == "proxy" else "reproduced"
    if basis not in words:
        raise BadInput(f"basis {basis!r} decides nothing", right="formula, counted, measured or modelled")
    return words[basis]


def say(row: Row, outcome: Outcome, claim: Claim, several: bool) -> str:
    """One deciding row in words."""
    label = f" ({row.convention or row.device or row.origin})" if several or row.convention else ""
    found = f"{row.basis}{label}: {show(row.value, row.unit)}"
    if row.interval is not None:
        found += f" [{show(row.interval[0])}, {show(row.interval[1])}]"
    mark = "; leans on an inference" if row.inferred else ""
    if outcome == "agrees":
        return f"{found}{cut_off(row, claim)}{mark}"
    low, high = (show(edge) if math.isfinite(edge) else "any" for edge in accepts(claim))
    return f"{found}, where {low} to {high} would agree{mark}"


def cut_off(row: Row, claim: Claim) -> str:
    """Says when a value agrees only because its digits were cut off, not rounded."""
    number, step = claim.published.number, claim.published.last_digit
    if claim.test != "equal" or isinstance(number, tuple) or abs(row.value) <= abs(number) + step * (0.5 + SLACK):
        return ""
    return f", printed as {claim.published.printed!r}: cut off, not rounded"


def aside(others: Sequence[Row], accepted: tuple[float, float]) -> str:
    """Rows of the same quantity that did not decide, when they say something else."""
    said = []
    for row in others:
        label = f" ({row.convention})" if row.convention else ""
        why = " from memory" if row.remembered else ""
        said.append(f"{row.basis}{label}{why}: {show(row.value, row.unit)} {compare(row, accepted)}")
    return "beside it " + ", ".join(dict.fromkeys(said)) if said else ""
