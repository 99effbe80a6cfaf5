"""Working a derivation out: inputs resolved, steps evaluated, and the text of every step made from the same data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import hardware
from v3bench.suite.ledger.data import choose, located
from v3bench.suite.ledger.derivations import Derivation, Input, Variant, load
from v3bench.suite.ledger.expressions import FUNCTIONS, Quantity, evaluate, filled, names
from v3bench.suite.ledger.lawbook import LAWS, bound, config_of
from v3bench.suite.ledger.sources import Status
from v3bench.suite.ledger.units import from_si, show, to_si, unit


@dataclass(frozen=True)
class Value:
    """An input as it entered: SI, unit it is shown in, where it comes from, and what it leans on."""

    quantity: Quantity
    unit: str
    source: str
    remembered: bool = False
    inferred: bool = False
    claims: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Step:
    """One step with its text: ``tpot = layers * layer = 61 * 241.92 us = 14.7571 ms``."""

    name: str
    expression: str
    filled: str
    value: Value

    @property
    def shown(self) -> float:
        """The value in the step's own unit."""
        return from_si(self.value.quantity.value, self.value.unit)

    @property
    def text(self) -> str:
        return f"{self.name} = {self.expression} = {self.filled} = {show(self.shown, self.value.unit)}"


@dataclass(frozen=True)
class Worked:
    """A derivation evaluated: inputs and steps by name, in order."""

    derivation: Derivation
    variant: str
    model: str
    inputs: dict[str, Value]
    steps: dict[str, Step]


def work_out(name: str, variant: str = "") -> Worked:
    """A derivation's inputs and steps, evaluated. Raises BadInput naming the step."""
    return _work_out(name, variant, ())


@cache
def _work_out(name: str, variant: str, above: tuple[str, ...]) -> Worked:
    key = f"{name}@{variant}"
    if key in above:
        raise BadInput("leans on itself", where=f"derivation {key}")
    choose(name, load(), "derivation", "derivation")
    derivation = load()[name]
    if variant:
        choose(variant, derivation.variants, "variant", name)
    changes = derivation.variants[variant] if variant else Variant(label="")
    model = changes.model or derivation.model
    inputs = {
        key_: resolve({**derivation.inputs, **changes.inputs}[key_], model, (*above, key), f"derivation {key}: {key_}")
        for key_ in derivation.inputs
    }
    known, steps, functions = dict(inputs), {}, {**FUNCTIONS, **bound(model)}
    for step, expression, text in derivation.steps:
        with located(f"derivation {key}: step {step}"):
            quantity = evaluate(expression, {n: v.quantity for n, v in known.items()}, functions)
        if quantity.dimension != unit(text)[1]:
            right = "a unit of the result's kind"
            raise BadInput(f"result is not in {text}", where=f"derivation {key}: step {step}", right=right)
        shown = {n: show(from_si(v.quantity.value, v.unit), v.unit) for n, v in known.items()}
        used = [known[n] for n in names(expression)[0]]
        known[step] = leaning(quantity, text, f"{name}.{step}", used, inferred=derivation.status == "inference")
        steps[step] = Step(step, expression, filled(expression, shown, model, LAWS), known[step])
    return Worked(derivation, variant, model, inputs, steps)


def resolve(given: Input, model: str, above: tuple[str, ...], where: str) -> Value:
    """An input's value in SI and what it leans on. Raises BadInput for a reference that leads nowhere."""
    if given.config:
        owner, _, key = given.config.rpartition(".")
        config = config_of(owner or model) if owner or model else None
        name, _, place = key.partition("[")
        number = getattr(config, name, None)
        if place and isinstance(number, tuple):
            number = number[int(place.rstrip("]"))]
        if isinstance(number, bool) or not isinstance(number, int | float):
            right = "a number of the model's config"
            raise BadInput(f"config field {given.config!r} is {number!r}", where=where, right=right)
        text = given.unit or "1"
        return Value(Quantity(number, unit(text)[1]), text, f"{owner or model} config.json, {key}")
    if given.hardware:
        spec = hardware.spec(given.hardware)
        return value_of(spec.si, spec.unit, spec.source, spec.status)
    if given.claim:
        from v3bench.suite.ledger.claims import published

        with located(where):
            number, text, source = published(given.claim)
        held = value_of(number, text, source.line(), source.status)
        return Value(held.quantity, held.unit, held.source, held.remembered, held.inferred, frozenset({given.claim}))
    if given.step:
        place, _, step = given.step.rpartition(".")
        other, _, variant = place.partition("@")
        worked = _work_out(other, variant, above)
        choose(step, worked.steps, "step", where)
        return worked.steps[step].value
    number = int(given.value) if given.value == int(given.value) else float(given.value)
    return value_of(to_si(number, given.unit), given.unit, given.source, given.status)


def leaning(quantity: Quantity, text: str, source: str, used: Iterable[Value], *, inferred: bool) -> Value:
    """A step's value, marked as its weakest input is."""
    used = list(used)
    claims: frozenset[str] = frozenset().union(*(value.claims for value in used))
    inferred = inferred or any(value.inferred for value in used)
    return Value(quantity, text, source, any(value.remembered for value in used), inferred, claims)


def value_of(si: float, text: str, source: str, status: Status) -> Value:
    return Value(Quantity(si, unit(text)[1]), text, source, status == "memory", status == "inference")
