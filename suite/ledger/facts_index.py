"""The index of facts: every row of the fact sheet behind the ledger, with its claims or why it has none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import claims, derivations
from v3bench.suite.ledger.data import HERE, choose, read_toml, record


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row or one sentence's number."""

    section: str
    row: str
    claims: tuple[str, ...] = ()
    reason: str = ""
    steps: tuple[str, ...] = ()  # "derivation.step" or "derivation@variant.step" that gives our own number

    def parts(self) -> list[tuple[str, str, str]]:
        """(derivation, variant, step) of every step."""
        found = []
        for reference in self.steps:
            place, _, step = reference.rpartition(".")
            derivation, _, variant = place.partition("@")
            found.append((derivation, variant, step))
        return found


@cache
def load(path: Path = HERE / "facts_index.toml") -> tuple[Row, ...]:
    """Every row. Raises BadInput for a row that leads nowhere, and for a claim that no row names."""
    raw = read_toml(path)
    choose(next((key for key in raw if key != "row"), "row"), ["row"], "key", path.name)
    rows = tuple(record(Row, body, f"{path.name}: row {i + 1}") for i, body in enumerate(raw.get("row", [])))
    for row in rows:
        where = f"{path.name}: {row.section} {row.row!r}"
        if not row.claims and not row.reason:
            raise BadInput("has neither claims nor a reason", where=where)
        for claim in row.claims:
            choose(claim, claims.raw(), "claim", where)
        for derivation, variant, step in row.parts():
            choose(derivation, derivations.load(), "derivation", where)
            choose(step, derivations.load()[derivation].units, "step", where)
            if variant:
                choose(variant, derivations.load()[derivation].variants, "variant", where)
    named = {claim for row in rows for claim in row.claims}
    if left := sorted(set(claims.raw()) - named):
        raise BadInput(f"claim {left[0]!r} is in no row", where=path.name, right="every claim in at least one row")
    return rows
