"""The first level of the error budget: what one quantiser does to a matrix.

QUANTISERS   by name: those that V3's recipe and its alternatives have for activations and gradients, and controls
Cast         a format without scales
Quantised    what is lost
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from v3bench.model_ref.formats import E4M1, E4M2, E4M3, E5M2, E5M6, Format, cast
from v3bench.model_ref.scaling import RELEASED, Scaling, joined
from v3bench.suite.budget.error import Error, error

TILE = 128
BF16 = Format("BF16", 8, 7)


@dataclass(frozen=True)
class Cast:
    """A format without scales: what is too small becomes zero, what is too large the largest value or infinity."""

    form: Format

    def __call__(self, x: Tensor) -> Tensor:
        """x of any shape -> float32, or float64 where x is."""
        if self.form == BF16:  # as wide as float32, whose arithmetic the emulation needs
            return x.bfloat16().to(torch.promote_types(x.dtype, torch.float32))
        return cast(x, self.form)


Quantiser = Scaling | Cast


def tiles(form: Format, *, power_of_two: bool = False) -> Scaling:
    """A scale for 1 x 128 values."""
    return Scaling(form, (1, TILE), RELEASED, power_of_two)


QUANTISERS: dict[str, Quantiser] = {
    "e4m3-1x128": tiles(E4M3),  # V3's activations
    "e4m3-1x128-ue8m0": tiles(E4M3, power_of_two=True),  # where they are dispatched, and on Blackwell
    "e4m3-128x128": Scaling(E4M3, (TILE, TILE)),  # V3's weights; for gradients it diverged
    "e4m3-per-token": Scaling(E4M3, (1, 0)),
    "e4m3-per-tensor": Scaling(E4M3, (0, 0)),
    "e4m3-unscaled": Cast(E4M3),
    "e5m2-1x128": tiles(E5M2),
    "e5m6-1x128-ue8m0": tiles(E5M6, power_of_two=True),  # V3's input of the product after the attention
    "e4m2-1x128": tiles(E4M2),
    "e4m1-1x128": tiles(E4M1),
    "bf16-unscaled": Cast(BF16),
}


@dataclass(frozen=True)
class Quantised:
    """What a quantiser made of a matrix.

    flushed: share of the values other than zero that became zero. clipped: share beyond what rounds to the largest
    value of the format, which scales of the largest magnitude leave none of.
    """

    error: Error
    flushed: float
    clipped: float

    @classmethod
    def of(cls, quantiser: Quantiser, x: Tensor) -> Self:
        """x (rows, columns), finite."""
        y, count = quantiser(x), max(x.numel(), 1)
        nonzero = x != 0
        flushed = int((nonzero & (y == 0)).sum()) / max(int(nonzero.sum()), 1)
        return cls(error(y, x), flushed, int(beyond(quantiser, x).sum()) / count)

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in decibels; infinite where nothing is off."""
        return -20 * math.log10(self.error.relative) if self.error.relative else math.inf


def beyond(quantiser: Quantiser, x: Tensor) -> Tensor:
    """x (R, C) -> which elements are larger than what rounds to the format's largest value."""
    form = quantiser.form
    most = form.largest + 2.0 ** (math.frexp(form.largest)[1] - 2 - form.mantissa)  # half a step more
    if isinstance(quantiser, Cast) or not x.numel():
        return x.abs() > most
    boxes = quantiser.split(x)
    return joined(boxes.abs() > quantiser.scales(boxes)[0] * most, x.shape)
