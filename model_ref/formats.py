"""Narrow floating-point formats, emulated in plain torch: which values they have, and rounding to the nearest of them.

    Format    sign, exponent and mantissa bits, and what the highest exponent holds
    cast      the raw cast: to nearest even, with subnormals and overflow
    rounded   the same for values that cannot overflow, faster

Only values are emulated, not their bits: a tensor stays float32 or float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIGNIFICAND = {torch.float32: 23, torch.float64: 52}  # stored mantissa bits
EXPONENT = {torch.float32: (torch.int32, 0x7F800000), torch.float64: (torch.int64, 0x7FF0000000000000)}


@dataclass(frozen=True)
class Format:
    """A format of 1 + ``exponent`` + ``mantissa`` bits.

    ``finite``: the highest exponent holds values too, all but one code (as in E4M3FN), and what is too large becomes
    the largest; otherwise that exponent holds infinity and NaN (IEEE 754), and what is too large is infinity.
    """

    name: str
    exponent: int
    mantissa: int
    finite: bool = False

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return 1 + self.exponent + self.mantissa

    @property
    def bias(self) -> int:
        """What the exponent's code is less by."""
        return (1 << (self.exponent - 1)) - 1

    @property
    def largest(self) -> float:
        """The largest finite value: 448 for E4M3, 57344 for E5M2."""
        top = self.bias + (1 if self.finite else 0)
        # A finite format's last mantissa at its highest exponent is NaN.
        return (2 - 2.0**-self.mantissa * (2 if self.finite else 1)) * 2.0**top

    @property
    def least_normal(self) -> float:
        """The least value of full precision: 2^-6 for E4M3."""
        return 2.0 ** (1 - self.bias)

    @property
    def least(self) -> float:
        """The least value above zero: 2^-9 for E4M3."""
        return self.least_normal * 2.0**-self.mantissa

    @property
    def half_step(self) -> float:
        """The largest relative error of rounding a value of full precision: 2^-4 for E4M3."""
        return 2.0 ** -(self.mantissa + 1)


E4M3 = Format("E4M3", 4, 3, finite=True)
E5M2 = Format("E5M2", 5, 2)
E5M6 = Format("E5M6", 5, 6)  # V3 report, section 3.3.3: what follows the attention, kept for the backward pass
# Controls: E4M3 with fewer mantissa bits. A test of accuracy that cannot tell E4M3 from these proves nothing.
E4M2 = Format("E4M2", 4, 2, finite=True)
E4M1 = Format("E4M1", 4, 1, finite=True)
FORMATS = {form.name: form for form in (E4M3, E5M2, E5M6, E4M2, E4M1)}


def cast(x: Tensor, form: Format) -> Tensor:
    """x of any shape -> the nearest values of ``form``, ties to even; float32, or float64 where x is.

    As torch casts: signs of zero stay, NaN stays NaN, what overflows becomes the largest value of a finite format
    (infinity too) and infinity otherwise.
    """
    x = x if x.dtype == torch.float64 else x.float()
    if form.finite:
        out = rounded(x.clamp(-form.largest, form.largest), form)
    else:
        out = rounded(x.clamp(-2 * form.largest, 2 * form.largest), form)
        out = out.masked_fill_(out.abs() > form.largest, float("inf"))
    return out.copysign_(x)


def rounded(x: Tensor, form: Format) -> Tensor:
    """x float32 or float64 -> the nearest of ``form``'s values, ties to even.

    Nothing is done about overflow and the sign of zero. Infinity becomes NaN.
    """
    integer, mask = EXPONENT[x.dtype]
    # The power of two below |x|, but not below where subnormals begin.
    power = x.view(integer).bitwise_and(mask).view(x.dtype)
    power = power.clamp_(min=form.least_normal)
    # Adding 1.5 x 2^k pushes all digits but the wanted ones out of the significand: the sum is rounded to them.
    shift = 1.5 * 2.0 ** (SIGNIFICAND[x.dtype] - form.mantissa)
    return torch.add(x, power, alpha=shift).sub_(power, alpha=shift)
