"""The cases: every shape that is run, as data with a name, a version and a why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.data import read_toml
from v3bench.suite.meter.measurement import AREAS, Basis

PATH = Path(__file__).parent / "cases.toml"
PROFILES = ("smoke", "quick", "standard", "full")
NEEDS = {"cuda": "needs a CUDA device", "cpu": "is for a CPU"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One named shape: it feeds the benchmark ``test_<bench>`` of bench_<area>.py."""

    name: str
    area: str
    bench: str
    metric: str
    basis: Basis
    version: int
    subjects: tuple[str, ...]  # presets, or "kernels.<op>"
    profiles: tuple[str, ...]
    why: str
    impls: tuple[str, ...] = ("torch",)
    device: str = ""  # "cuda" or "cpu" where it can run on nothing else
    shape: Mapping[str, Any]  # the rest of the table: batch, lengths, ...

    @property
    def series(self) -> tuple[str, ...]:
        """What is measured side by side: "subject/impl" of each."""
        return tuple(f"{subject}/{impl}" for subject in self.subjects for impl in self.impls)

    @property
    def dimensions(self) -> dict[str, int]:
        """The whole numbers of its shape, without options such as ``cold``: for a kernel, those of laws/work.py."""
        return {key: n for key, n in self.shape.items() if type(n) is int}

    def elsewhere(self, device: str) -> str:
        """Why the case cannot run on "cpu" or "cuda", or ""."""
        return "" if self.device in ("", device) else NEEDS[self.device]


@cache
def load(path: Path = PATH) -> dict[str, Case]:
    """Cases by name, in the file's order. Raises BadInput naming the case and what is wrong."""
    tables = read_toml(path)
    return {name: read(name, alike(raw, tables), f"{path.name}: {name}") for name, raw in tables.items()}


def alike(raw: Any, tables: Mapping[str, Any]) -> Any:
    """A table with what it does not say itself as the case has it that ``like`` names: all but shape and why."""
    if not isinstance(raw, dict) or not isinstance(tables.get(raw.get("like", "")), dict):
        return raw
    other = tables[raw["like"]]
    shared = {f.name for f in fields(Case)} - {"name", "shape", "why"}
    return {key: other[key] for key in other if key in shared} | {key: raw[key] for key in raw if key != "like"}


def read(name: str, raw: Any, where: str) -> Case:
    """One table of the file as a Case. Raises BadInput."""
    if not isinstance(raw, dict):
        raise BadInput("is no table", where=where)
    if "like" in raw:
        raise BadInput(f"is like {raw['like']!r}, which is no case", where=where)
    own = {f.name for f in fields(Case)} - {"name", "shape"}
    if missing := own - {"impls", "device"} - raw.keys():
        raise BadInput(f"lacks {', '.join(sorted(missing))}", where=where)
    values: dict[str, Any] = {}
    for key in own & raw.keys():
        value = raw[key]
        if key in ("subjects", "profiles", "impls"):
            if not (isinstance(value, list) and value and all(isinstance(x, str) for x in value)) or len(
                set(value)
            ) != len(value):
                raise BadInput(f"{key} is {value!r}", where=where, right="a list of different names")
            value = tuple(value)
        elif key == "version":
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInput(f"version is {value!r}", where=where, right="a whole number from 1")
        elif not isinstance(value, str) or not value:
            raise BadInput(f"{key} is {value!r}", where=where, right="text")
        values[key] = value
    if values["area"] not in AREAS:
        raise BadInput(f"unknown area {values['area']!r}", where=where, right=f"one of {', '.join(AREAS)}")
    if values["basis"] not in ("counted", "measured"):
        raise BadInput(f"basis is {values['basis']!r}", where=where, right="counted or measured")
    if unknown := sorted(set(values["profiles"]) - set(PROFILES)):
        raise BadInput(f"unknown profile {unknown[0]!r}", where=where, right=f"one of {', '.join(PROFILES)}")
    if values.get("device", "cpu") not in NEEDS:
        raise BadInput(f"unknown device {values['device']!r}", where=where, right=f"one of {', '.join(NEEDS)}")
    return Case(name=name, shape={key: raw[key] for key in raw if key not in own}, **values)
