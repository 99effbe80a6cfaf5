"""Keys and values in e4m3 with one scale per token and head: what is written when a token is appended.

    reference_heads   the definition
    quantize_heads    launcher

A head of a token is one 1 x d tile of quantize.py: amax / 448 is its scale, ``clamp`` the least amax; a head that holds
NaN or infinity dequantises wholly to NaN. Nothing but the token itself is needed, so that appending never touches what
the pages hold already.
"""

from __future__ import annotations

import torch
from torch import Tensor
from v3bench.kernels import quantize
from v3bench.kernels.launch import Config


def reference_heads(x: Tensor, *, clamp: float = quantize.ACTIVATION) -> tuple[Tensor, Tensor]:
    """x (..., J, d) -> codes (..., J, d) e4m3, scales (..., J) float32, with d <= 128."""
    codes, scales = quantize.reference_tiles(x.reshape(-1, x.shape[-1]), clamp=clamp)
    return codes.view(x.shape), scales.reshape(x.shape[:-1])


def quantize_heads(
    x: Tensor, *, clamp: float = quantize.ACTIVATION, config: Config | None = None
) -> tuple[Tensor, Tensor]:
    """As ``reference_heads``, x bf16, f16 or f32; ``config`` is one of quantize_tiles. Raises ValueError."""
    if x.ndim < 2 or not 1 <= x.shape[-1] <= quantize.TILE:
        raise ValueError(
            f"quantize_heads: x has shape {tuple(x.shape)}, expected (..., J, d) with d of 1 to {quantize.TILE}"
        )
    codes, scales = quantize.quantize_tiles(x.reshape(-1, x.shape[-1]), clamp=clamp, config=config)
    return codes.view(x.shape), scales.reshape(x.shape[:-1])


def empty_scales(pages: int, slots: int, heads: int, device: torch.device | str) -> Tensor:
    """Scales (pages, slots, heads) float32, stored head by head: a program reads one head's slots in one piece."""
    return torch.empty(pages, heads, slots, dtype=torch.float32, device=device).transpose(1, 2)
