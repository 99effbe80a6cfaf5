"""Derivations laid out step by step: only the steps that a claim rests on, then the derivations those lean on."""

from __future__ import annotations

from typing import Any

import pandas as pd
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.derivations import Input
from v3bench.suite.ledger.evidence import Row
from v3bench.suite.ledger.expressions import names
from v3bench.suite.ledger.units import from_si
from v3bench.suite.ledger.verdict import Judged
from v3bench.suite.ledger.workings import Step, Value, Worked, work_out
from v3bench.suite.report.display import amount
from v3bench.suite.report.tables import Column, Table

Key = tuple[str, str]  # derivation, variant


def step_of(row: Row) -> str:
    """The step that a row of evidence took its value from."""
    return row.origin.rpartition(".")[2]


def derivation_views(judged: Judged) -> list[dict[str, Any]]:
    """The derivations behind a claim, the deciding ones first, each with the steps that matter to it.

    Of one that only stands beside, its other variants are left to the sensitivity table.
    """
    wanted: dict[Key, set[str]] = {}
    for row in sorted((row for row in judged.evidence if row.worked), key=lambda row: row not in judged.deciding):
        worked = row.worked
        assert worked is not None
        key = (worked.derivation.name, worked.variant)
        if row in judged.deciding or key in wanted or key[0] not in {name for name, _ in wanted}:
            wanted.setdefault(key, set()).add(step_of(row))
    views = []
    done: set[Key] = set()
    while pending := [key for key in wanted if key not in done]:
        key = pending[0]
        done.add(key)
        worked = work_out(*key)
        steps = needed(worked, wanted[key])
        views.append(derivation_view(worked, steps, wanted[key]))
        for name, given in inputs_of(worked).items():
            if given.step and name in entering(worked, steps):
                other, step = referred(given)
                if other not in done:
                    wanted.setdefault(other, set()).add(step)
    return views


def needed(worked: Worked, targets: set[str]) -> set[str]:
    """The steps that ``targets`` follow from, themselves included."""
    found = set(targets)
    for name in reversed(worked.steps):  # a step uses only earlier ones
        if name in found:
            found |= names(worked.steps[name].expression)[0] & worked.steps.keys()
    return found


def entering(worked: Worked, steps: set[str]) -> set[str]:
    """The inputs that these steps use."""
    used: set[str] = set().union(*(names(worked.steps[name].expression)[0] for name in steps))
    return used & worked.inputs.keys()


def inputs_of(worked: Worked) -> dict[str, Input]:
    """The inputs as the derivation's data give them, the variant's put in."""
    derivation = worked.derivation
    changed = derivation.variants[worked.variant].inputs if worked.variant else {}
    return {**derivation.inputs, **changed}


def referred(given: Input) -> tuple[Key, str]:
    """((derivation, variant), step) that an input takes its value from."""
    place, _, step = given.step.rpartition(".")
    name, _, variant = place.partition("@")
    return (name, variant), step


def derivation_view(worked: Worked, steps: set[str], targets: set[str]) -> dict[str, Any]:
    """Inputs with source and status, then each step: its formula, the formula with the numbers put in, the result."""
    derivation = worked.derivation
    label = derivation.variants[worked.variant].label if worked.variant else ""
    given = inputs_of(worked)
    used = entering(worked, steps)
    return {
        "title": f"{derivation.title} ({label})" if label else derivation.title,
        "basis": derivation.basis,
        "status": derivation.status,
        "note": derivation.note,
        "inputs": [input_view(name, value, given[name]) for name, value in worked.inputs.items() if name in used],
        "steps": [step_view(step, step.name in targets) for step in worked.steps.values() if step.name in steps],
    }


def input_view(name: str, value: Value, given: Input) -> dict[str, str]:
    sure = "worked out" if given.step else "confirmed"
    status = "memory" if value.remembered else "inference" if value.inferred else sure
    source = f"step {value.source}" if given.step else value.source
    shown = amount(from_si(value.quantity.value, value.unit), value.unit, 8)
    return {"name": name, "value": shown, "source": source, "status": status}


def step_view(step: Step, used: bool) -> dict[str, Any]:
    result = amount(step.shown, step.value.unit, 8)
    filled = "" if step.filled == step.expression else step.filled
    return {"name": step.name, "expression": step.expression, "filled": filled, "result": result, "used": used}


def sensitivity_table(judged: Judged) -> Table | None:
    """What the claim's step becomes from other inputs, when its derivation has variants."""
    for row in (*judged.deciding, *judged.evidence):
        if row.worked and row.worked.derivation.variants:
            name, step = row.worked.derivation.name, step_of(row)
            variants = row.worked.derivation.variants
            plain = row.worked.derivation.model if any(v.model for v in variants.values()) else "as published"
            labels = {"": plain} | {key: v.label for key, v in variants.items()}
            rows = [{"label": label, "value": outcome(name, key, step)} for key, label in labels.items()]
            columns = (Column("label", "Inputs"), Column("value", step, True))
            return Table("The same step from other inputs", columns, pd.DataFrame(rows))
    return None


def outcome(name: str, variant: str, step: str) -> str:
    """A step's value in one variant, or why it cannot be worked out: one broken variant takes no other with it."""
    try:
        worked = work_out(name, variant).steps[step]
    except BadInput as error:
        return f"fails: {error}"
    return amount(worked.shown, worked.value.unit)
