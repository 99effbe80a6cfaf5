"""How good codes and scales are whose float32 values were summed in some order: each code a nearest one.

A kernel's float32 value may differ from the exact one in its last bits, so that a value half way between two codes goes
either way. Nothing else may: every code is held to the exact value over the scale that was given with it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from v3bench.kernels.quantize import ACTIVATION, FP8_MAX, TILE

# Relative error of the float32 values: a sum over a row, a root, an exponential and some products, each good to a few
# units of 2^-24; sixteen are allowed.
VALUE = 2.0**-20


def codes_error(codes: Tensor, scales: Tensor, values: Tensor) -> float:
    """codes (M, F), scales (M, W) against the exact values (M, F) in float64: the worse over what is allowed.

    A code may lie half a step from the exact quotient, and by what VALUE moves it; a scale may be off by VALUE.
    """
    if codes.shape != values.shape or scales.shape != (len(values), -(-values.shape[1] // TILE)):
        raise ValueError(f"codes {tuple(codes.shape)}, scales {tuple(scales.shape)}, values {tuple(values.shape)}")
    width = values.shape[1]
    tiles = torch.nn.functional.pad(values, (0, -width % TILE)).unflatten(1, (-1, TILE))
    due = tiles.abs().amax(-1).clamp(min=ACTIVATION) / FP8_MAX
    if not bool(torch.isfinite(scales).all()):
        return float("inf")
    off = float(((scales.double() / due - 1).abs() / VALUE).max()) if values.numel() else 0.0
    exact = values / scales.double().repeat_interleave(TILE, dim=1)[:, :width]
    # Of e4m3: three bits of fraction, and below 2^-6 the fixed step 2^-9.
    half = torch.exp2(exact.abs().clamp(min=2.0**-6).log2().floor() - 4)
    beyond = (codes.double() - exact).abs() - half
    allowed = VALUE * exact.abs() + 2.0**-60
    return max(off, float((beyond / allowed).max()) if values.numel() else 0.0)
