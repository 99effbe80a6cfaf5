"""Derivations: a number worked out in named steps, as data.

A derivation has inputs (each a number with unit and source, or a reference to a model's config, to the hardware
table, to another claim's published value or to a step elsewhere), ordered steps ``[name, expression, unit]``, and
variants that change inputs. workings.py works them out; expressions.py says what an expression may hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import hardware
from v3bench.suite.ledger.data import HERE, choose, located, record, tables
from v3bench.suite.ledger.expressions import FUNCTIONS, names
from v3bench.suite.ledger.lawbook import FREE, LAWS
from v3bench.suite.ledger.sources import Status
from v3bench.suite.ledger.units import unit
from v3bench.suite.models import presets

FOLDER = HERE / "derivations"


@dataclass(frozen=True, kw_only=True)
class Input:
    """A number (``value``, ``unit``, ``source``) or one reference to where it stands."""

    value: Any = None
    unit: str = ""
    source: str = ""
    status: Status = "confirmed"
    config: str = ""  # "hidden_size", or "deepseek-v2.hidden_size"
    hardware: str = ""  # "h800-sxm.bf16"
    claim: str = ""  # another claim's published value
    step: str = ""  # "derivation.step" or "derivation@variant.step"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The same steps from other inputs."""

    label: str
    model: str = ""
    inputs: dict[str, Input] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """One worked-out number and how."""

    name: str = ""
    title: str
    basis: Literal["formula", "modelled"] = "formula"
    status: Literal["confirmed", "recomputed", "inference"] = "recomputed"
    note: str = ""
    model: str = ""
    inputs: dict[str, Input] = field(default_factory=dict)
    steps: tuple[tuple[str, str, str], ...]
    variants: dict[str, Variant] = field(default_factory=dict)

    @property
    def units(self) -> dict[str, str]:
        """Step name -> unit it is shown in."""
        return {name: text for name, _, text in self.steps}


@cache
def load(folder: Path = FOLDER) -> dict[str, Derivation]:
    """Every derivation by name, checked as far as that goes without evaluating. Raises BadInput."""
    found: dict[str, Derivation] = {}
    for path, raw in tables(folder):
        for name, body in raw.items():
            where = f"{path.name}: {name}"
            if name in found:
                raise BadInput("is defined twice", where=where)
            found[name] = record(Derivation, {**body, "name": name} if isinstance(body, dict) else body, where)
            check(found[name], where)
    return found


def check(derivation: Derivation, where: str) -> None:
    """Raise BadInput for a step that cannot be worked out: unknown name, function, unit or model."""
    known = set(derivation.inputs)
    functions = set(FUNCTIONS) | set(FREE) | (set(LAWS) if derivation.model else set())
    for step, expression, text in derivation.steps:
        at = f"{where}: step {step}"
        if step in known:
            raise BadInput("is defined twice", where=at)
        with located(at):
            unit(text)
            values, called = names(expression)
        for name in sorted(values):
            choose(name, known, "name", at)
        for name in sorted(called):
            choose(name, functions, "function", at)
        known.add(step)
    shapes: list[tuple[str, Derivation | Variant]] = [("", derivation), *derivation.variants.items()]
    for label, variant in shapes:
        at = f"{where}: variant {label}" if label else where
        if variant.model:
            choose(variant.model, presets(), "model", at)
        for name, given in variant.inputs.items():
            choose(name, derivation.inputs, "input", at)
            check_input(given, f"{at}: input {name}")


def check_input(given: Input, where: str) -> None:
    """Raise BadInput unless an input is one number with unit and source, or one reference."""
    references = [kind for kind in ("config", "hardware", "claim", "step") if getattr(given, kind)]
    if (given.value is not None) + len(references) != 1:
        raise BadInput("has no single origin", where=where, right="one of value, config, hardware, claim, step")
    if given.value is not None:
        if isinstance(given.value, str | bool | list | dict):
            raise BadInput(f"value is {given.value!r}", where=where, right="a number")
        if not given.unit or not given.source:
            raise BadInput("has no unit or no source", where=where, right="value, unit and source")
        with located(where):
            unit(given.unit)
    if given.hardware:
        with located(where):
            hardware.spec(given.hardware)
