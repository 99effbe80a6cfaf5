"""Rotary position embedding: the angles, and how YaRN and Llama-3 stretch them to longer contexts.

    frequencies      one per pair of channels
    turn_scale       factor on the rotated vectors (YaRN's mscale ratio; 1 in the released models)
    softmax_factor   factor on the softmax scale of attention (YaRN's mscale)
    Rope             exp(i * position * frequency) for runs of positions, made once

YaRN as in arXiv 2309.00071 and the released modelling code; llama3 as in Llama 3.1's.
The rotation itself is kernels/rotate.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from v3bench.model_ref.config import ModelConfig, RopeScaling


def frequencies(theta: float, dim: int, scaling: RopeScaling | None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Radians per position of each of the dim/2 pairs, (dim/2)."""
    plain = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=dtype) / dim)
    if scaling is None:
        return plain
    stretched = plain / scaling.factor
    share = yarn_share(theta, dim, scaling, dtype) if scaling.kind == "yarn" else llama3_share(plain, scaling)
    return stretched * (1 - share) + plain * share


def yarn_share(theta: float, dim: int, scaling: RopeScaling, dtype: torch.dtype) -> Tensor:
    """How much of each plain frequency stays: 1 where a pair turns often in the trained context, 0 where hardly."""

    def pair_turning(turns: float) -> float:
        """The (fractional) pair that makes this many turns within the trained context."""
        return dim * math.log(scaling.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_turning(scaling.beta_fast)), 0)
    high: float = min(math.ceil(pair_turning(scaling.beta_slow)), dim - 1)
    if low == high:
        high += 0.001  # of the released code: a step instead of a division by zero
    return 1 - ((torch.arange(dim // 2, dtype=dtype) - low) / (high - low)).clamp(0, 1)


def llama3_share(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """How much of each plain frequency stays, by the number of its turns within the trained context."""
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    return ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)


def mscale(factor: float, weight: float) -> float:
    """YaRN's growth of attention with the stretch: 0.1 * weight * ln(factor) + 1."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def turn_scale(scaling: RopeScaling | None) -> float:
    """Factor on cosine and sine: mscale over mscale_all_dim, as the released code reads them."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    return mscale(scaling.factor, scaling.mscale) / mscale(scaling.factor, scaling.mscale_all_dim)


def softmax_factor(scaling: RopeScaling | None) -> float:
    """Factor on 1/sqrt(head width): mscale_all_dim's mscale, once for the query and once for the key."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    return mscale(scaling.factor, scaling.mscale_all_dim) ** 2


class Rope:
    """Turns (complex) of the positions 0, 1, 2, ..., shared by all layers; grown when a longer run is asked for.

    Angles are computed in float64 for a float64 model and in float32 otherwise: the products of positions and
    frequencies then round exactly as in the released code.
    """

    def __init__(self, config: ModelConfig, dim: int) -> None:
        self.config, self.dim = config, dim
        self.made: Tensor | None = None

    def table(self, count: int, like: Tensor) -> Tensor:
        """At least ``count`` positions, (>= count, dim/2) complex, on the device of ``like``."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        made = self.made
        if made is None or made.shape[0] < count or made.device != like.device or made.dtype != dtype.to_complex():
            # Outside inference mode, or a later training step could not use it.
            with torch.inference_mode(False), torch.no_grad():
                rows = max(count, 2 * made.shape[0] if made is not None else 0)
                speed = frequencies(self.config.rope_theta, self.dim, self.config.rope_scaling, dtype)
                angles = torch.arange(rows, dtype=dtype, device=like.device)[:, None] * speed.to(like.device)
                made = torch.polar(torch.full_like(angles, turn_scale(self.config.rope_scaling)), angles)
            self.made = made
        return made

    def run(self, start: int, count: int, like: Tensor) -> Tensor:
        """Turns of ``count`` positions from ``start`` on, (count, dim/2)."""
        return self.table(start + count, like)[start : start + count]

    def at(self, positions: Tensor, end: int, like: Tensor) -> Tensor:
        """Turns of any positions below ``end``, (..., dim/2)."""
        return self.table(end, like)[positions]
