"""Speeds of kernels that others published: typed, and found by operation and shape. They decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws import work
from v3bench.suite.ledger.data import HERE, choose, read_toml, record
from v3bench.suite.ledger.units import same_kind, show, to_si

KINDS = ("s", "FLOP/s", "B/s")


@dataclass(frozen=True, kw_only=True)
class Series:
    """Figures of one kernel in one source; each with its dimensions and ``value``."""

    who: str
    op: str
    chip: str
    clock: str  # "cold", "CUDA graph, 6 weight sets", "unknown"
    source: str
    unit: str
    figures: tuple[dict[str, float], ...]
    includes: str = ""  # what it holds besides the operation, or does otherwise
    status: Literal["confirmed", "inference"] = "confirmed"


@dataclass(frozen=True)
class Speed:
    """One figure: as printed, and where it stands."""

    series: Series
    shape: Mapping[str, int]
    value: float

    @property
    def seconds(self) -> float:
        """The time it stands for at the work of its shape."""
        value, todo = to_si(self.value, self.series.unit), work.of(self.series.op, self.shape)
        if same_kind(self.series.unit, "s"):
            return value
        return (todo.flops if same_kind(self.series.unit, "FLOP/s") else todo.nbytes) / value

    @property
    def text(self) -> str:
        """The figure for people: value, whose, chip, clock, and what else it holds."""
        one = self.series
        clock = "clock unknown" if one.clock == "unknown" else one.clock
        said = [one.who, one.chip, clock, *filter(None, [one.includes and f"with {one.includes}"])]
        return f"{show(self.value, one.unit)} ({', '.join(said)})"


@cache
def load(path: Path = HERE / "published_speeds.toml") -> tuple[Speed, ...]:
    """Every figure, in the file's order. Raises BadInput naming the series and what is wrong."""
    found: list[Speed] = []
    for name, raw in read_toml(path).items():
        where = f"{path.name}: {name}"
        series = record(Series, raw, where)
        choose(series.op, work.WORK, "operation", where)
        if not any(same_kind(series.unit, kind) for kind in KINDS):
            raise BadInput(f"unit {series.unit!r}", where=where, right="us, TFLOP/s or TB/s")
        found += [speed(series, figure, f"{where}: figure {n}") for n, figure in enumerate(series.figures, 1)]
    return tuple(found)


def speed(series: Series, figure: Mapping[str, Any], where: str) -> Speed:
    """One figure with the dimensions of its operation. Raises BadInput."""
    shape = {key: int(n) for key, n in figure.items() if key != "value"}
    try:
        todo = work.of(series.op, shape)
    except TypeError as error:
        raise BadInput(f"dimensions {', '.join(shape)} are not those of {series.op}", where=where) from error
    if not figure.get("value", 0) > 0 or not todo.nbytes > 0:
        raise BadInput("is no speed", where=where, right="positive dimensions and a positive value")
    if same_kind(series.unit, "FLOP/s") and not todo.flops:
        raise BadInput(f"{series.op} does no products", where=where, right="a time or B/s")
    return Speed(series, shape, figure["value"])


def of(op: str, shape: Mapping[str, int]) -> list[Speed]:
    """What was published of an operation at exactly this shape."""
    return [one for one in load() if one.series.op == op and one.shape == dict(shape)]
