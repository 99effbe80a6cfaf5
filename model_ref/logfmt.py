"""LogFMT-n (ISCA 2025, section 3.2): codes of n bits on a logarithmic grid that each tile of 1 x 128 has for itself.

    encode    values -> integer codes, and each tile's least and largest magnitude
    decode    back

With min and max of log|x| over a tile's values other than zero, step = (max - min) / (2^(n-1) - 2), and min at least
max - log(2^32), a code is a sign S and K: zero is S.0...0, min S.0...01, max S.1...1, and K stands for
exp(min + step * (K - 1)). A value takes the code nearest to it in linear space, below half of exp(min) that of zero.

What the paper leaves open, as it is read here: a tile travels with exp(min) and exp(max) in float32, so that its
largest magnitude comes back exactly; grids are worked out in float64; a tie takes the smaller magnitude; a tile that
holds NaN or infinity comes back as NaN throughout. Bytes per value: n/8 + 8/128.

R rows  C columns  J = ceil(C/128) tiles of a row, the last may be shorter
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.model_ref.errors import BadInput

TILE = 128
SPAN = 32 * math.log(2)  # the largest max - min
ENDS = 8  # bytes of a tile's two magnitudes


class Encoded(NamedTuple):
    """What travels; codes would be packed to their ``bits``."""

    codes: Tensor  # (..., R, C) int32, from 0 to 2^bits - 1
    ends: Tensor  # (..., R, J, 2) float32: exp(min) and exp(max), zeros of a tile of zeros, else NaN throughout
    bits: int


def encode(x: Tensor, bits: int) -> Encoded:
    """x (..., C), float32 or narrower. Raises BadInput for fewer than 3 or more than 16 bits, or float64."""
    if not 3 <= bits <= 16:
        raise BadInput(f"{bits} bits", where="LogFMT", right="3 to 16")
    if x.dtype == torch.float64:
        raise BadInput("float64", where="LogFMT", right="float32 or narrower")
    tiles = split(x.double())  # (..., J, 128)
    size = tiles.abs()
    high = size.amax(-1)
    low = size.masked_fill(size == 0, float("inf")).amin(-1)
    low = torch.maximum(low, high * 2.0**-32).float()  # where that is no float32, the least magnitude is larger
    zeros = high == 0
    wrong = ~high.isfinite()
    ends = torch.stack((low, high.float()), -1).masked_fill(zeros[..., None], 0.0)
    ends = ends.masked_fill(wrong[..., None], float("nan"))
    least, step = (part[..., None] for part in grid(ends, bits))
    place = ((size.log() - least) / step).nan_to_num(0.0).floor().clamp(0, steps(bits) - 1)  # K - 1 of the lower one
    below, above = (least + step * place).exp(), (least + step * (place + 1)).exp()
    code = place + 1 + (above - size < size - below)
    code = code.where(size > ends[..., :1].double() / 2, 0.0)
    code = code.to(torch.int32).masked_fill((zeros | wrong)[..., None], 0)
    sign = (tiles < 0).to(torch.int32) << (bits - 1)
    return Encoded((code | sign).flatten(-2)[..., : x.shape[-1]], ends, bits)


def decode(encoded: Encoded) -> Tensor:
    """(..., C) float32."""
    codes, ends, bits = encoded
    C = codes.shape[-1]
    tiles = split(codes)
    number = tiles & (2 ** (bits - 1) - 1)
    least, step = (part[..., None] for part in grid(ends, bits))
    size = (least + step * (number - 1)).exp().float().masked_fill(number == 0, 0.0)
    size = torch.where(ends[..., :1].isnan(), ends[..., :1], size)
    signed: Tensor = torch.where(tiles >> (bits - 1) == 1, -size, size).flatten(-2)[..., :C]
    return signed


def rounded(x: Tensor, bits: int) -> Tensor:
    """x (..., C) -> what its codes stand for, float32."""
    return decode(encode(x, bits))


def steps(bits: int) -> int:
    """Steps from the smallest to the largest magnitude: 126 of 8 bits."""
    return int(2 ** (bits - 1) - 2)


def grid(ends: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """ends (..., 2) -> min and step, float64; of zeros -inf and NaN."""
    low, high = ends.double().log().unbind(-1)
    return low, (high - low) / steps(bits)


def split(x: Tensor) -> Tensor:
    """x (..., C) -> its tiles (..., J, 128), filled up with zeros."""
    x = F.pad(x, (0, -x.shape[-1] % TILE))
    tiles: Tensor = x.unflatten(-1, (x.shape[-1] // TILE, TILE))
    return tiles
