"""How far one tensor is from another: the measures of every level of the error budget.

Magnitude and direction both: a result that is too small throughout has the cosine 1, and one that is turned a little
may have the right length.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Error(NamedTuple):
    """Of a tensor against what it should be; NaN where that is zero throughout."""

    relative: float  # the difference's root mean square over the tensor's own
    cosine: float
    worst_row: float  # the largest relative error of a row (the last dimension), of rows that are not zero


def error(got: Tensor, want: Tensor) -> Error:
    """got and want (..., C), any dtype, in float64."""
    a, b = got.detach().double(), want.detach().double()
    rows = b.flatten(0, -2) if b.ndim > 1 else b[None]
    off = (a - b).reshape(rows.shape).norm(dim=1)
    length = rows.norm(dim=1)
    norms = a.norm() * b.norm()
    there = length > 0
    return Error(
        relative=float((a - b).norm() / b.norm()),
        cosine=float((a * b).sum() / norms) if norms else float("nan"),
        worst_row=float((off[there] / length[there]).max()) if bool(there.any()) else float("nan"),
    )
