"""Rotary position embedding: each pair of channels is turned by an angle that grows with the position.

    reference   the definition, in sines and cosines
    rotate      launcher: the same as one complex multiplication

``turns`` (..., R/2) holds exp(i * position * frequency), complex; model_ref/rope.py makes it. DeepSeek's
weights keep the pairs side by side, (x0, x1), (x2, x3), ...; Llama's and Qwen's keep the halves apart,
(x0, x[R/2]), (x1, x[R/2+1]), ...
"""

from __future__ import annotations

import torch
from torch import Tensor


def reference(x: Tensor, turns: Tensor, *, interleaved: bool = True) -> Tensor:
    """x (..., R) and turns (..., R/2), broadcast against each other -> (..., R), pairs where they were."""
    cos, sin = turns.real, turns.imag
    wide = x.to(cos.dtype)
    first, second = (wide[..., 0::2], wide[..., 1::2]) if interleaved else wide.chunk(2, dim=-1)
    turned = first * cos - second * sin, second * cos + first * sin
    joined = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return joined.to(x.dtype)


def rotate(x: Tensor, turns: Tensor, *, interleaved: bool = True) -> Tensor:
    """As ``reference``."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if not interleaved:
        turned = torch.complex(*wide.chunk(2, dim=-1)) * turns
        return torch.cat((turned.real, turned.imag), dim=-1).to(x.dtype)
    if any(step % 2 for step in (*wide.stride()[:-1], wide.storage_offset())):
        wide = wide.contiguous()  # pairs can be read as complex numbers only where they start at even places
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turns).view(x.shape)
    return turned if wide is x else turned.to(x.dtype)
