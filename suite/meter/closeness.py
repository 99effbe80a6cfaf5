"""How close two results are: to the logits' scale, and in units of rounding. The suite's two definitions."""

from __future__ import annotations

import torch
from torch import Tensor


def scale_error(got: Tensor, want: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of ``want``; inf where got is not finite.

    One shape is required; raises ValueError.
    """
    if got.shape != want.shape:
        raise ValueError(f"shapes {tuple(got.shape)} and {tuple(want.shape)} differ")
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    scale = want.double().abs().max().clamp(min=1e-300)
    return float((got.double() - want.double()).abs().max() / scale)


def rounding_error(got: Tensor, want: Tensor, dtype: torch.dtype, roundings: int = 1) -> float:
    """Worst row's relative RMS error, in units of what ``roundings`` roundings to ``dtype`` explain; 1 is the bar.

    Rows, [..., row], so that one dead row is not lost among good ones; inf where got is not finite.
    """
    if got.shape != want.shape:
        raise ValueError(f"shapes {tuple(got.shape)} and {tuple(want.shape)} differ")
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    got, want = torch.atleast_2d(got.double()).flatten(0, -2), torch.atleast_2d(want.double()).flatten(0, -2)
    size = want.square().mean(-1).sqrt().clamp(min=1e-30)
    row = (got - want).square().mean(-1).sqrt() / size
    return float(row.max() / (torch.finfo(dtype).eps * roundings**0.5))
