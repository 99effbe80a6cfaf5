"""Evidence for a claim, row by row: worked out live from derivations, or picked out of a run's measurements."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from v3bench.suite.ledger import claims as ledger
from v3bench.suite.ledger import metrics
from v3bench.suite.ledger.claims import Claim, Evidence, Selector
from v3bench.suite.ledger.derivations import load
from v3bench.suite.ledger.units import from_si, to_si
from v3bench.suite.ledger.workings import Worked, work_out
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.mtp.interval import over_files
from v3bench.suite.train.gap import FEWEST

Index = Mapping[tuple[str, str], Sequence[Measurement]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One piece of evidence, in the unit of the claim it stands beside."""

    basis: str
    scale: str
    convention: str
    value: float
    unit: str
    device: str = ""
    interval: tuple[float, float] | None = None
    origin: str = ""  # derivation and step, case and implementation, or a claim id
    worked: Worked | None = field(default=None, compare=False)  # the derivation, for its steps
    remembered: bool = False  # leans on a number that is only remembered: decides nothing
    inferred: bool = False  # leans on a reading that no source states
    leans_on: frozenset[str] = frozenset()  # claims whose published values entered

    def as_json(self) -> dict[str, object]:
        """The row as ``v3bench claims --json`` prints it."""
        names = ("basis", "scale", "convention", "value", "unit", "device", "interval")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Sample:
    """One group of samples that belong together, in SI: median and quartiles; of a share, mean and 95 % interval."""

    median: float
    low: float
    high: float
    scale: str
    convention: str
    device: str
    origin: str


def index(measurements: Iterable[Measurement]) -> Index:
    """Measurements by (metric, subject)."""
    found: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for measurement in measurements:
        found[measurement.metric, measurement.subject].append(measurement)
    return found


def rows(claim: Claim, evidence: Evidence, run: Index) -> list[Row]:
    """The rows that one entry of a claim's evidence gives. Raises BadInput when it is broken."""
    if evidence.derivation:
        return [derived(claim, evidence)]
    if evidence.claim:
        return [printed_elsewhere(claim, evidence)]
    assert evidence.pick is not None
    return picked(claim, evidence.pick, evidence.over, run)


def derived(claim: Claim, evidence: Evidence) -> Row:
    """A derivation's step in the claim's unit."""
    worked = work_out(evidence.derivation, evidence.variant)
    value = worked.steps[evidence.step].value
    text = claim.published.unit
    bounds = sorted(from_si(worked.steps[name].value.quantity.value, text) for name in evidence.interval)
    variant = load()[evidence.derivation].variants[evidence.variant].label if evidence.variant else ""
    return Row(
        basis=worked.derivation.basis,
        scale="full",
        convention=evidence.convention or variant,
        value=from_si(value.quantity.value, text),
        unit=text,
        interval=(bounds[0], bounds[1]) if bounds else None,
        origin=f"{evidence.derivation}{'@' + evidence.variant if evidence.variant else ''}.{evidence.step}",
        worked=worked,
        remembered=value.remembered,
        inferred=value.inferred,
        leans_on=value.claims,
    )


def printed_elsewhere(claim: Claim, evidence: Evidence) -> Row:
    """Another document's number beside this one: it is shown, and never decides."""
    other = ledger.read(evidence.claim)
    factor = to_si(1, other.published.unit) / to_si(1, claim.published.unit)
    number = other.published.number
    ends = tuple(part * factor for part in (number if isinstance(number, tuple) else (number, number)))
    return Row(
        basis="published",
        scale="full",
        convention=evidence.convention or f"{other.source.document}, {other.source.place}",
        value=sum(ends) / 2,
        unit=claim.published.unit,
        interval=(ends[0], ends[1]) if isinstance(number, tuple) else None,
        origin=other.id,
        remembered=other.source.status == "memory",
        leans_on=frozenset({other.id}),
    )


def picked(claim: Claim, pick: Selector, over: Selector | None, run: Index) -> list[Row]:
    """The run's measurements that a selector means, as rows; with ``over``, their ratio on one device and scale."""
    text = claim.published.unit
    found = groups(pick, run)
    if over is not None:
        below = groups(over, run)
        found = [divide(a, b) for a in found for b in below if (a.device, a.scale) == (b.device, b.scale)]
    return [
        Row(
            basis=pick.basis,
            scale=sample.scale,
            convention=sample.convention,
            value=from_si(sample.median, text),
            unit=text,
            device=sample.device,
            interval=(from_si(sample.low, text), from_si(sample.high, text)) if sample.low < sample.high else None,
            origin=sample.origin,
        )
        for sample in found
    ]


def groups(selector: Selector, run: Index) -> list[Sample]:
    """Samples pooled over launches, apart by scale, convention, device, implementation, case and precision."""
    pools: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for m in run.get((selector.metric, selector.subject), ()):
        fits = all(not want or want == have for want, have in (
            (selector.convention, m.convention), (selector.scale, m.scale), (selector.case, m.case),
            (selector.impl, m.impl),
        ))  # fmt: skip
        fits = fits and m.convention.startswith(selector.begins)
        if fits and m.status == "ok" and m.basis == selector.basis:
            pools[m.scale, m.convention, m.device, m.impl, m.case, m.precision].extend(m.samples)
    found = []
    for (scale, convention, device, impl, case, precision), samples in pools.items():
        whole = [int(s) if float(s).is_integer() else s for s in samples]
        same = len(set(whole)) == 1
        low, median, high = (whole[0],) * 3 if same else statistics.quantiles(whole, n=4, method="inclusive")
        if metrics.load()[selector.metric].summary == "mean" and not same and len(samples) >= FEWEST:
            low, median, high = (over := over_files(samples)).low, over.mean, over.high
        origin = " ".join(part for part in (case, impl, precision) if part)
        found.append(Sample(median, low, high, scale, convention, device, origin))
    return found


def divide(a: Sample, b: Sample) -> Sample:
    origin = f"{a.origin} over {b.origin}"
    return Sample(a.median / b.median, a.low / b.high, a.high / b.low, a.scale, a.convention, a.device, origin)


def untried(claim: Claim, run: Index) -> list[str]:
    """Why measurements that the claim asks for are missing: the reasons that skipped and failed ones give."""
    found = []
    for evidence in claim.evidence:
        if evidence.pick is not None:
            for m in run.get((evidence.pick.metric, evidence.pick.subject), ()):
                if m.status != "ok" and m.basis == evidence.pick.basis:
                    found.append(f"{m.case} {m.status}: {m.why}")
    return sorted(set(found))
