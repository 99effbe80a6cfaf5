"""How E4M3 codes use their range, and a bound on how far they are from what was rounded to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from v3bench.model_ref.formats import E4M3
from v3bench.suite.budget.weight_figures import boxes, squares

SHARES = ("zero", "subnormal", "largest")


@dataclass
class Range:
    """Of codes and the scales of their blocks."""

    codes: int = 0
    zero: int = 0
    subnormal: int = 0
    largest: int = 0
    blocks: int = 0
    used: float = 0.0  # sum over blocks of the largest code over the format's largest
    least_used: float = math.inf
    least_scale: float = math.inf
    most_scale: float = 0.0
    half_steps: float = 0.0  # squares
    size: float = 0.0  # squares of what the codes stand for

    def add(self, codes: Tensor, scales: Tensor, block: tuple[int, int]) -> None:
        """Take in the values of codes (rows, C) float32 and scales (I, J), finite; a block begins with the rows."""
        size, scales = codes.abs(), scales.abs()
        self.codes += size.numel()
        self.zero += int((size == 0).sum())
        self.subnormal += int(((size > 0) & (size < E4M3.least_normal)).sum())
        self.largest += int((size == E4M3.largest).sum())
        used = boxes(size, block).amax((1, 3)) / E4M3.largest  # (I, J)
        self.blocks += used.numel()
        self.used += float(used.sum(dtype=torch.float64))
        self.least_used = min(self.least_used, float(used.min()))
        self.least_scale = min(self.least_scale, float(scales.min()))
        self.most_scale = max(self.most_scale, float(scales.max()))
        weight = scales.double().square()
        self.half_steps += float((squares(half_step(size), block) * weight).sum())
        self.size += float((squares(size, block) * weight).sum())

    def __add__(self, other: Self) -> Self:
        names = ("codes", "zero", "subnormal", "largest", "blocks", "used", "half_steps", "size")
        return type(self)(
            **{name: getattr(self, name) + getattr(other, name) for name in names},
            least_used=min(self.least_used, other.least_used),
            least_scale=min(self.least_scale, other.least_scale),
            most_scale=max(self.most_scale, other.most_scale),
        )

    @property
    def bound(self) -> float | None:
        """No relative error is above it where each code is the nearest and none is clipped; None: nothing can be said.

        What was rounded is at most half a step away, so its length is at least the codes' less that of the half steps.
        """
        share = math.sqrt(self.half_steps / self.size) if self.size else math.inf
        return share / (1 - share) if share < 1 else None

    def as_json(self) -> dict[str, Any]:
        """Figures by name."""
        return {
            "range_used": self.used / self.blocks if self.blocks else None,
            "least_range_used": self.least_used if self.blocks else None,
            **{name: getattr(self, name) / self.codes if self.codes else None for name in SHARES},
            "least_scale": self.least_scale if self.blocks else None,
            "most_scale": self.most_scale if self.blocks else None,
            "scale_spread": self.most_scale / self.least_scale if self.blocks and self.least_scale else None,
            "bound": self.bound,
        }

    @property
    def headline(self) -> float | None:
        """What matrices are ordered by, the worst first."""
        return self.bound


def half_step(size: Tensor) -> Tensor:
    """Magnitudes of E4M3 codes -> half the distance to the next larger one; the largest's as if there were one."""
    exponent = torch.frexp(size.clamp(min=E4M3.least_normal)).exponent  # of what is at least a half
    return torch.ldexp(torch.full_like(size, E4M3.half_step / 2), exponent)
