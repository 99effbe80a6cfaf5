"""Quantisation with scales, emulated in plain torch: a matrix becomes the values that its codes and scales stand for.

A box of a matrix shares one scale, the box's largest magnitude over the format's largest value. V3 has boxes of
1 x 128 for activations and 128 x 128 for weights (V3 report, section 3.3.2); a side of 0 is the whole side, so that
1 x 0 is per token and 0 x 0 per tensor. A box at the end may be smaller.

R rows  C columns  r, c sides of a box  I = ceil(R/r), J = ceil(C/c) boxes
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.model_ref.formats import Format, rounded

GUARD = 2.0**-100  # the least magnitude of a box: a scale has to be a normal number, also for zeros
RELEASED = 1e-4  # the same in the released code; a gradient that is small throughout is lost in it


@dataclass(frozen=True)
class Scaling:
    """How a matrix is quantised.

    ``clamp`` is the least magnitude of a box, so that a box of zeros has a scale. ``power_of_two``: scales are rounded
    up to a power of two (UE8M0). A box that holds NaN or infinity becomes NaN throughout. With E4M3 and V3's boxes the
    codes and scales are those of kernels/quantize.py, bit for bit.
    """

    form: Format
    box: tuple[int, int]
    clamp: float = GUARD
    power_of_two: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., R, C) -> what its codes stand for, (..., R, C) float32, or float64 where x is."""
        if not x.numel():
            return x.to(torch.promote_types(x.dtype, torch.float32))
        boxes = self.split(x)
        scale, inverse = self.scales(boxes)
        return joined(rounded(boxes * inverse, self.form).mul_(scale), x.shape)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., R, C) -> the codes' values (..., R, C), and the scales (..., I, J) that undo them."""
        if not x.numel():
            (R, C), (r, c) = x.shape[-2:], self.sides(x)
            return self(x), torch.empty(*x.shape[:-2], -(-R // r), -(-C // c), device=x.device)
        boxes = self.split(x)
        scale, inverse = self.scales(boxes)
        return joined(rounded(boxes * inverse, self.form), x.shape), scale[..., 0, :, 0]

    def split(self, x: Tensor) -> Tensor:
        """x (..., R, C) -> its boxes (..., I, r, J, c), filled up with zeros."""
        x = x if x.dtype == torch.float64 else x.float()
        (R, C), (r, c) = x.shape[-2:], self.sides(x)
        if R % r or C % c:
            x = F.pad(x, (0, -C % c, 0, -R % r))
        boxes: Tensor = x.unflatten(-2, (-1, r)).unflatten(-1, (-1, c))
        return boxes

    def sides(self, x: Tensor) -> tuple[int, int]:
        """(r, c) for x (..., R, C)."""
        return self.box[0] or max(x.shape[-2], 1), self.box[1] or max(x.shape[-1], 1)

    def scales(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """boxes (..., I, r, J, c) -> each one's scale and what brings it into the format's range, (..., I, 1, J, 1)."""
        return self.of(boxes.abs().amax((-3, -1), keepdim=True))

    def of(self, amax: Tensor) -> tuple[Tensor, Tensor]:
        """Largest magnitudes -> scale and inverse; NaN for NaN and infinity."""
        amax = amax.clamp(min=self.clamp).masked_fill(~amax.isfinite(), float("nan"))
        most = torch.full_like(amax, self.form.largest)  # a number would make torch multiply by a rounded reciprocal
        scale = amax / most
        if self.power_of_two:
            scale = torch.exp2(torch.ceil(torch.log2(scale.double()))).to(scale.dtype)
            return scale, torch.ones_like(amax) / scale
        return scale, most / amax


def joined(boxes: Tensor, shape: torch.Size) -> Tensor:
    """boxes (..., I, r, J, c) -> the matrices of ``shape`` (..., R, C)."""
    whole = boxes.flatten(-2).flatten(-3, -2)
    return whole if whole.shape == shape else whole[..., : shape[-2], : shape[-1]]


def along_groups(scaling: Scaling, x: Tensor, offsets: Tensor) -> Tensor:
    """As ``scaling`` with boxes r x 1 of rows that begin anew with each group: x (R, C), offsets (E), the groups' ends.

    Rows after the last group become 0. Shapes depend on no value, so that nothing waits for a GPU.
    """
    (R, _), E, r = x.shape, len(offsets), scaling.sides(x)[0]
    rows = torch.arange(R, device=x.device)
    group = torch.searchsorted(offsets.long(), rows, right=True)  # (R), E for rows after the last
    start = F.pad(offsets.long(), (1, 0))  # (E+1)
    lengths = start.diff()
    first = F.pad(((lengths + r - 1) // r).cumsum(0), (1, 0)) * r  # (E+1): where a group begins once padded to r
    to = first[group] + rows - start[group]  # (R)
    padded = x.new_zeros((R // r + E + 1) * r, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    keep = (group < E).unsqueeze(1)
    return torch.where(keep, scaling(padded.index_copy_(0, to, x.to(padded.dtype))).index_select(0, to), 0.0)
