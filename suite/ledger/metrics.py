"""Every metric by name: its unit in SI, which way is better, how it is shown and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.data import HERE, read_toml, record
from v3bench.suite.ledger.units import unit


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: samples are in ``unit``; a table shows them times ``factor``, headed ``show``."""

    unit: str
    direction: Literal["less", "more", "none"]
    show: str
    factor: float
    meaning: str
    summary: Literal["median", "mean"] = "median"  # of samples; the mean where they are shares of equal parts of a text


@cache
def load(path: Path = HERE / "metrics.toml") -> dict[str, Metric]:
    """Every metric by name. Raises BadInput naming file and metric."""
    found = {name: record(Metric, raw, f"{path.name}: {name}") for name, raw in read_toml(path).items()}
    for name, metric in found.items():
        if unit(metric.unit)[0] != 1:
            raise BadInput(
                f"unit {metric.unit!r} is not SI", where=f"{path.name}: {name}", right="1, B, s, FLOP and such"
            )
    return found
