"""The claims: every published number with its source, its deciding basis, its test and its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import cases, derivations, metrics
from v3bench.suite.ledger.data import HERE, choose, located, record, tables
from v3bench.suite.ledger.sources import Source, check
from v3bench.suite.ledger.units import same_kind, to_si, unit
from v3bench.suite.meter.measurement import AREAS, Scale
from v3bench.suite.meter.scale import TENSOR_CORE
from v3bench.suite.models import presets

FOLDER = HERE / "claims"
Test = Literal["equal", "within", "between", "below", "above", "about", "order"]
NEEDS_TOLERANCE = ("within", "about")
FORMATS = ("bf16", "e4m3", "e5m2", "logfmt-8", "logfmt-10")  # number formats, subjects of measurements beside presets


@dataclass(frozen=True, kw_only=True)
class Published:
    """The value as printed: a number, a range, or a phrase with our reading of it as a number."""

    value: Any  # number, (low, high) or text, in ``unit``
    unit: str
    printed: str  # the text as printed
    read_as: Any = None  # what a phrase is tested as
    step: float | None = None  # worth of the last printed digit; from the printed digits unless given

    @property
    def number(self) -> float | tuple[float, float]:
        """The number or range that is tested, in ``unit``."""
        tested = self.value if self.read_as is None else self.read_as
        return (real(tested[0]), real(tested[1])) if isinstance(tested, tuple) else real(tested)

    @property
    def last_digit(self) -> float:
        """What one unit of the last printed digit is worth, in ``unit``."""
        if self.step is not None:
            return self.step
        tested = self.value if self.read_as is None else self.read_as
        parts = tested if isinstance(tested, tuple) else (tested,)
        return min(10.0 ** min(0, exponent(part)) for part in parts)

    @property
    def plain(self) -> float | tuple[float, float] | str:
        """The value for JSON."""
        return self.value if isinstance(self.value, str) else self.number if self.read_as is None else plain(self.value)


@dataclass(frozen=True, kw_only=True)
class Decides:
    """What decides the claim: one basis, the least scale that counts, and the convention where one is meant.

    ``stronger`` names bases that decide in its place, the first that a run has evidence of: what was formulated can be
    counted, what was counted can be measured. ``whole``: a slice, which decides where the full model is meant and its
    dimensions are all that matters, does not: what is claimed comes of trained weights, or of all layers together.
    """

    basis: Literal["formula", "counted", "measured", "modelled"]
    scale: Scale = "full"
    convention: str = ""
    stronger: tuple[Literal["counted", "measured"], ...] = ()
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Which measurements of a run are meant. Empty means any, except for metric and subject."""

    metric: str
    subject: str
    basis: Literal["counted", "measured"] = "measured"
    convention: str = ""
    begins: str = ""  # how the convention begins, where its end says what was trained
    scale: str = ""
    case: str = ""
    impl: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One place evidence comes from: a derivation's step, measurements of a run, or another document's number."""

    derivation: str = ""
    step: str = ""
    variant: str = ""
    interval: tuple[str, ...] = ()  # the two steps that bound the value
    claim: str = ""  # another claim whose published number stands beside this one
    pick: Selector | None = None
    over: Selector | None = None  # the value is pick / over, both from one device
    convention: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published number."""

    id: str
    area: str
    statement: str
    source: Source
    published: Published
    test: Test
    decides: Decides
    tolerance: float | None = None  # relative, for within and about
    tolerance_why: str = ""
    needs: str = ""  # what a measurement would take
    command: str = ""  # what would then test it, where that is more than running its area
    note: str = ""
    evidence: tuple[Evidence, ...] = ()


def exponent(value: Any) -> int:
    """Power of ten of the last printed digit of a TOML number."""
    return int(value.as_tuple().exponent) if isinstance(value, Decimal) else 0


def real(value: Any) -> float:
    """A TOML number: integers and whole decimals exact."""
    return int(value) if isinstance(value, int) or value == int(value) else float(value)


def plain(value: Any) -> Any:
    return tuple(real(part) for part in value) if isinstance(value, tuple) else real(value)


@cache
def raw(folder: Path = FOLDER) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Claim id -> (area, where, its table), before reading. Raises BadInput for a wrong area or an id given twice."""
    found: dict[str, tuple[str, str, dict[str, Any]]] = {}
    for path, bodies in tables(folder):
        area = path.stem.partition(".")[0]
        choose(area, AREAS, "area", path.name)
        for name, body in bodies.items():
            where = f"{path.name}: {name}"
            if not name.startswith(area.replace("_", "-") + "-"):
                raise BadInput("id does not begin with its area", where=where, right=area.replace("_", "-") + "-...")
            if name in found:
                raise BadInput(f"is defined twice, here and in {found[name][1].partition(':')[0]}", where=where)
            found[name] = (area, where, body)
    return found


@cache
def read(name: str, folder: Path = FOLDER) -> Claim:
    """One claim by id, its own fields checked. Raises BadInput naming file, id and what would be right."""
    choose(name, raw(folder), "claim", "ledger")
    area, where, body = raw(folder)[name]
    if not isinstance(body, dict):
        raise BadInput(f"is {body!r}", where=where, right="a table")
    for key in ("id", "area"):
        if key in body:
            raise BadInput(f"key {key!r} is not written out", where=where, right="the table's name and the file's name")
    body = dict(body)
    value = body.get("published")
    if isinstance(value, dict):
        body["published"] = {key: tuple(part) if isinstance(part, list) else part for key, part in value.items()}
    claim = record(Claim, {**body, "id": name, "area": area}, where)
    check_published(claim, where)
    check(claim.source, where)
    return claim


def published(name: str) -> tuple[float, str, Source]:
    """(value in SI, unit, source) of a claim's published number, for use as an input elsewhere. Raises BadInput."""
    claim = read(name)
    number = claim.published.number
    if isinstance(number, tuple):
        raise BadInput(f"claim {name!r} prints a range", right="a claim that prints one number")
    return to_si(number, claim.published.unit), claim.published.unit, claim.source


@cache
def load(folder: Path = FOLDER) -> tuple[Claim, ...]:
    """Every claim, in order of file and place, with every reference checked. Raises BadInput."""
    known = raw(folder)
    claims = tuple(read(name, folder) for name in known)
    for claim in claims:
        where = known[claim.id][1]
        for i, evidence in enumerate(claim.evidence):
            check_evidence(claim, evidence, folder, f"{where}: evidence {i + 1}")
        if claim.decides.convention:
            choose(claim.decides.convention, {*map(convention_of, claim.evidence)}, "convention", f"{where}: decides")
    return claims


def convention_of(evidence: Evidence) -> str:
    """The convention that rows of this entry carry, as far as the ledger says it."""
    if evidence.pick is not None:
        return evidence.pick.convention
    if evidence.variant and not evidence.convention:
        return derivations.load()[evidence.derivation].variants[evidence.variant].label
    return evidence.convention


def check_published(claim: Claim, where: str) -> None:
    """Raise BadInput when value, unit, test and tolerance do not fit each other."""
    at = f"{where}: published"
    with located(at):
        unit(claim.published.unit)
    tested = claim.published.value if claim.published.read_as is None else claim.published.read_as
    parts = tested if isinstance(tested, tuple) else (tested,)
    if isinstance(tested, str):
        raise BadInput(f"value {tested!r} is a phrase", where=at, right="read_as, the number it is tested as")
    if any(isinstance(part, bool) or not isinstance(part, int | Decimal) for part in parts):
        raise BadInput(f"value {tested!r} is no number", where=at, right="a number or [low, high]")
    if len(parts) != (2 if claim.test == "between" else 1) or isinstance(tested, tuple) != (claim.test == "between"):
        right = "between for [low, high], another test for one number"
        raise BadInput(f"test {claim.test} does not fit value {claim.published.plain!r}", where=where, right=right)
    if parts[0] > parts[-1]:
        raise BadInput("range is upside down", where=at, right="[low, high]")
    if (claim.test in NEEDS_TOLERANCE) != (claim.tolerance is not None):
        right = "a relative tolerance for within and about, none for the others"
        raise BadInput(f"test {claim.test} and tolerance do not fit", where=where, right=right)
    if claim.tolerance is not None and (not 0 < claim.tolerance < 1 or not claim.tolerance_why):
        right = "tolerance between 0 and 1, and tolerance_why"
        raise BadInput(f"tolerance is {claim.tolerance} for {claim.tolerance_why!r}", where=where, right=right)
    if not claim.published.printed or not claim.statement:
        raise BadInput("statement or printed text is empty", where=where)
    if claim.decides.basis == "measured" and not claim.needs:
        raise BadInput("lacks 'needs'", where=where, right="what a measurement would take")


def proxies() -> set[str]:
    """Subjects of cases that train small models: "proxy.<what is tried>"."""
    return {subject for case in cases.load().values() for subject in case.subjects if subject.startswith("proxy.")}


def check_evidence(claim: Claim, evidence: Evidence, folder: Path, where: str) -> None:
    """Raise BadInput for a reference that leads nowhere or to another kind of quantity."""
    if sum((bool(evidence.derivation), bool(evidence.claim), evidence.pick is not None)) != 1:
        raise BadInput("has no single origin", where=where, right="one of derivation, claim, pick")
    kind = ""
    if evidence.derivation:
        choose(evidence.derivation, derivations.load(), "derivation", where)
        derivation = derivations.load()[evidence.derivation]
        if evidence.variant:
            choose(evidence.variant, derivation.variants, "variant", where)
        if len(evidence.interval) not in (0, 2):
            raise BadInput("interval names not two steps", where=where, right="[low step, high step]")
        for step in (evidence.step, *evidence.interval):
            choose(step, derivation.units, "step", where)
        kind = derivation.units[evidence.step]
    elif evidence.claim:
        choose(evidence.claim, raw(folder), "claim", where)
        kind = read(evidence.claim, folder).published.unit
    elif evidence.pick is not None:
        for selector in (evidence.pick, evidence.over):
            if selector is not None:
                choose(selector.metric, metrics.load(), "metric", where)
                if not selector.subject.startswith("kernels."):
                    choose(selector.subject, {*presets(), *FORMATS, TENSOR_CORE, *proxies()}, "subject", where)
        units = [metrics.load()[s.metric].unit for s in (evidence.pick, evidence.over) if s is not None]
        if len(units) == 2 and not same_kind(*units):
            raise BadInput(f"divides {units[0]} by {units[1]}", where=where, right="two metrics of one kind")
        kind = units[0] if evidence.over is None else "1"
    if not same_kind(kind, claim.published.unit):
        right = f"a quantity in {claim.published.unit}, or another published unit"
        raise BadInput(f"its unit is {kind!r}", where=where, right=right)
