"""What the ledger finds across claims: where published numbers disagree with arithmetic, sources or each other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import claims, derivations
from v3bench.suite.ledger.data import HERE, choose, read_toml, record
from v3bench.suite.ledger.units import show
from v3bench.suite.ledger.workings import Step, work_out

SLOT = r"\{([^{}]*)\}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of our own that shows a finding: a derivation's step, and what it says.

    name, digits: as which the finding's statement may have it put in, ``{name}``, with so many digits.
    """

    says: str
    derivation: str
    step: str
    variant: str = ""
    name: str = ""
    digits: int = 3

    @property
    def worked(self) -> Step:
        """The step, worked out."""
        return work_out(self.derivation, self.variant).steps[self.step]

    @property
    def text(self) -> str:
        """``what it says: value``, for a line of a report."""
        return f"{self.says}: {show(self.worked.shown, self.worked.value.unit)}"

    @property
    def short(self) -> str:
        """The value to ``digits`` digits with its unit, for a statement: ``1.52 x``, ``94.5%``."""
        rounded = float(f"{self.worked.shown:.{self.digits}g}")
        return show(int(rounded) if rounded.is_integer() else rounded, self.worked.value.unit)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding: the claims it is about and the figures that show it."""

    name: str = ""
    title: str
    statement: str
    status: Literal["recomputed", "inference", "sources"]  # arithmetic; a reading; two sources print different things
    claims: tuple[str, ...]
    figures: tuple[Figure, ...] = ()

    @property
    def said(self) -> str:
        """The statement with every ``{name}`` replaced by the value of the figure of that name, worked out."""
        return re.sub(SLOT, lambda slot: self.named[slot[1]].short, self.statement)

    @property
    def named(self) -> dict[str, Figure]:
        """The figures that the statement may put in."""
        return {figure.name: figure for figure in self.figures if figure.name}


@cache
def load(path: Path = HERE / "findings.toml") -> tuple[Finding, ...]:
    """Every finding in order of weight. Raises BadInput for a reference that leads nowhere."""
    found = []
    for name, raw in read_toml(path).items():
        where = f"{path.name}: {name}"
        finding = record(Finding, {**raw, "name": name}, where)
        if not finding.claims:
            raise BadInput("names no claim", where=where)
        for claim in finding.claims:
            choose(claim, claims.raw(), "claim", where)
        for figure in finding.figures:
            choose(figure.derivation, derivations.load(), "derivation", where)
            derivation = derivations.load()[figure.derivation]
            choose(figure.step, derivation.units, "step", where)
            if figure.variant:
                choose(figure.variant, derivation.variants, "variant", where)
        for slot in re.findall(SLOT, finding.statement):
            choose(slot, finding.named, "figure", where)
        found.append(finding)
    return tuple(found)
