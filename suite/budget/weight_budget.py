"""A budget of released weights: what was found of each matrix, and of the matrices of a kind or of a layer together.

A matrix that holds NaN or infinity is named, has no figures, and counts in no group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from v3bench.model_ref.checkpoint_export import Matrix
from v3bench.suite.budget.code_range import Range
from v3bench.suite.budget.weight_figures import Compared, Exported

Figures = Exported | Compared | Range
EXPORT, RELEASE, CODES = "export_error", "release_error", "code_range"


@dataclass
class Faults:
    """Values of a matrix, its codes or its scales that are not finite."""

    nan: int = 0
    infinite: int = 0

    def none_in(self, *tensors: Tensor) -> bool:
        """Whether these are finite throughout; counted where they are not."""
        clean = True
        for x in tensors:
            if x.numel() and not bool(torch.isfinite(torch.stack(x.aminmax())).all()):
                clean = False
                self.nan += int(x.isnan().sum())
                self.infinite += int(x.isinf().sum())
        return clean

    def __bool__(self) -> bool:
        return bool(self.nan or self.infinite)


@dataclass(frozen=True)
class Row:
    """A matrix and what was found of it: ``figures`` count only without ``faults``."""

    matrix: Matrix
    figures: Figures
    faults: Faults


@dataclass(frozen=True)
class Budget:
    """What was measured of a folder."""

    measure: str  # one of the three
    checkpoint: str
    against: str | None
    architecture: str
    layers: int  # those from here on are MTP's
    block: tuple[int, int]
    rows: Sequence[Row]
    kept: dict[str, Any] = field(default_factory=dict)  # what is not FP8

    @property
    def not_finite(self) -> list[Row]:
        """The matrices without figures."""
        return [row for row in self.rows if row.faults]

    @property
    def clean(self) -> list[Row]:
        """The matrices with figures."""
        return [row for row in self.rows if not row.faults]

    @property
    def worst(self) -> list[Row]:
        """The same, the worst first."""
        return sorted(self.clean, key=lambda row: -(row.figures.headline or 0.0))

    def groups(self, key: Callable[[Matrix], Any]) -> dict[Any, list[Row]]:
        """The matrices with figures by a property, in the order of their names' first appearance."""
        found: dict[Any, list[Row]] = {}
        for row in self.clean:
            found.setdefault(key(row.matrix), []).append(row)
        return found

    def by_kind(self) -> dict[str, list[Row]]:
        """By the name without layer and expert."""
        return self.groups(lambda matrix: matrix.kind)

    def by_layer(self) -> dict[int | None, list[Row]]:
        """By layer, those outside layers last."""
        found = self.groups(lambda matrix: matrix.layer)
        return dict(sorted(found.items(), key=lambda pair: (pair[0] is None, pair[0] or 0)))

    def as_json(self) -> dict[str, Any]:
        """One object; null where a figure is not defined."""
        return {
            "measure": self.measure,
            "checkpoint": self.checkpoint,
            "against": self.against,
            "architecture": self.architecture,
            "block": list(self.block),
            "total": summed(self.clean),
            "kinds": [{"kind": kind, **summed(rows)} for kind, rows in self.by_kind().items()],
            "layers": [
                {"layer": layer, "mtp": layer is not None and layer >= self.layers, **summed(rows)}
                for layer, rows in self.by_layer().items()
            ],
            "tensors": [
                {
                    "name": row.matrix.name, "kind": row.matrix.kind, "layer": row.matrix.layer,
                    "shape": list(row.matrix.shape), **row.figures.as_json(),
                }
                for row in self.clean
            ],
            "not_finite": [
                {"name": row.matrix.name, "nan": row.faults.nan, "infinite": row.faults.infinite}
                for row in self.not_finite
            ],
            "kept": self.kept,
        }  # fmt: skip


def summed(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of a group; without matrices only how many they are."""
    size = {"tensors": len(rows), "values": sum(values(row.matrix) for row in rows)}
    return size | (total(rows).as_json() if rows else {})


def total(rows: Sequence[Row]) -> Figures:
    """The figures of some matrices together."""
    whole: Figures = reduce(add, (row.figures for row in rows))
    return whole


def values(matrix: Matrix) -> int:
    """Scalars of a matrix."""
    return matrix.shape[0] * matrix.shape[1]
