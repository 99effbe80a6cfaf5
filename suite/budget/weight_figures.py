"""The figures of released weights in FP8, gathered a band of rows at a time in float64.

    Sums       how far values are from what they should be
    Exported   of an export
    Compared   of a release beside its original, and of our export of that

Each adds up: those of a group of matrices are of all its values as one vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from v3bench.model_ref.formats import E4M3
from v3bench.model_ref.scaling import Scaling


class Block(NamedTuple):
    """A block of a matrix, and its root mean square error over its own root mean square."""

    relative: float
    matrix: str
    row: int  # its first
    column: int

    def as_json(self) -> dict[str, Any]:
        """Figures by name."""
        return {"relative_error": self.relative, "tensor": self.matrix, "row": self.row, "column": self.column}


@dataclass
class Sums:
    """Of values beside what they should be."""

    off: float = 0.0  # squares of the difference
    want: float = 0.0
    got: float = 0.0
    flushed: int = 0  # values other than zero that became zero
    nonzero: int = 0
    worst: Block | None = None

    def add(self, got: Tensor, want: Tensor, block: tuple[int, int], matrix: str, first: int) -> None:
        """Take in got and want (rows, C), finite: the rows from ``first`` on, where a block begins."""
        off, size = squares(got - want, block), squares(want, block)
        self.off += float(off.sum())
        self.want += float(size.sum())
        self.got += float(squares(got, block).sum())
        there = want != 0
        self.nonzero += int(there.sum())
        self.flushed += int((there & (got == 0)).sum())
        shares = torch.where(size > 0, off / size, 0.0)  # (I, J)
        i, j = divmod(int(shares.argmax()), shares.shape[1])
        found = Block(math.sqrt(float(shares[i, j])), matrix, first + i * block[0], j * block[1])
        self.worst = worse(self.worst, found)

    def __add__(self, other: Self) -> Self:
        names = ("off", "want", "got", "flushed", "nonzero")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return type(self)(**sums, worst=worse(self.worst, other.worst))

    @property
    def relative(self) -> float | None:
        """Root mean square of the difference over that of what should be; None where that is zero."""
        return math.sqrt(self.off / self.want) if self.want else None

    @property
    def cosine(self) -> float | None:
        """Of the angle between both; None where one is zero throughout."""
        dot = (self.got + self.want - self.off) / 2  # 2ab = a^2 + b^2 - (a - b)^2
        length = math.sqrt(self.got) * math.sqrt(self.want)
        return dot / length if length else None

    def as_json(self) -> dict[str, Any]:
        """Figures by name."""
        return {
            "relative_error": self.relative,
            "cosine": self.cosine,
            "flushed": self.flushed / self.nonzero if self.nonzero else None,
            "worst_block": None if self.worst is None else self.worst.as_json(),
        }


@dataclass
class Exported:
    """What an export in V3's layout makes of matrices."""

    sums: Sums = field(default_factory=Sums)

    def __add__(self, other: Self) -> Self:
        return type(self)(self.sums + other.sums)

    def as_json(self) -> dict[str, Any]:
        """Figures by name."""
        return self.sums.as_json()

    @property
    def headline(self) -> float | None:
        """What matrices are ordered by, the worst first."""
        return self.sums.relative


@dataclass
class Compared:
    """What a release has made of matrices, and what our export would have; none of it where blocks are not V3's."""

    sums: Sums = field(default_factory=Sums)
    own: Sums = field(default_factory=Sums)
    codes: int = 0  # that ours were compared with
    equal_codes: int = 0
    scales: int = 0
    equal_scales: int = 0

    def beside(self, codes: tuple[Tensor, Tensor], scales: tuple[Tensor, Tensor]) -> None:
        """Take in the release's and our codes, e4m3, compared bit for bit, and scales, float32."""
        a, b = (one.view(torch.uint8) for one in codes)
        self.codes += a.numel()
        self.equal_codes += int((a == b).sum())
        self.scales += scales[0].numel()
        self.equal_scales += int((scales[0] == scales[1]).sum())

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def as_json(self) -> dict[str, Any]:
        """Figures by name."""
        return {
            **self.sums.as_json(),
            "own_relative_error": self.own.relative,
            "own_cosine": self.own.cosine,
            "equal_codes": self.equal_codes / self.codes if self.codes else None,
            "equal_scales": self.equal_scales / self.scales if self.scales else None,
        }

    @property
    def headline(self) -> float | None:
        """What matrices are ordered by, the worst first."""
        return self.sums.relative


def boxes(x: Tensor, block: tuple[int, int]) -> Tensor:
    """x (rows, C) -> its blocks (I, r, J, c), filled up with zeros."""
    return Scaling(E4M3, block).split(x)


def squares(x: Tensor, block: tuple[int, int]) -> Tensor:
    """x (rows, C) float32 -> each block's sum of squares (I, J), float64."""
    lines: Tensor = torch.linalg.vector_norm(boxes(x, block), dim=3, dtype=torch.float64)
    return lines.square().sum(1)


def worse(a: Block | None, b: Block | None) -> Block | None:
    """The one with the larger error, the first where they are alike."""
    return b if a is None or (b is not None and b.relative > a.relative) else a
