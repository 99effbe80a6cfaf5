"""Frequencies against formulas of their own in float64, and the tables made from them.

transformers reads mscale and mscale_all_dim only where both are given; the released code gives each its default, as
here. That difference is checked against the released code's formula below, not against transformers.
"""

from __future__ import annotations

import math

import pytest
import torch
from v3bench.kernels.rotate import rotate
from v3bench.model_ref.config import RopeScaling
from v3bench.model_ref.rope import Rope, frequencies, mscale, softmax_factor, turn_scale

from .tiny import config

YARN = {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 4096}
LLAMA3 = {"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
LLAMA3 = LLAMA3 | {"original_max_position_embeddings": 8192}
ONE, HALF = 0.1 * math.log(40) + 1, 0.05 * math.log(40) + 1  # mscale of weight 1 and 0.5


def read(table: dict[str, object]) -> RopeScaling:
    scaling = RopeScaling.read(table, "test")
    assert scaling is not None
    return scaling


def yarn_by_hand(theta: float, dim: int, factor: float, fast: float, slow: float, trained: int) -> list[float]:
    """arXiv 2309.00071, eq. 22-23 with the ramp over pair numbers, as released: floor below, ceiling above."""
    out = []
    low = math.floor(dim / 2 * math.log(trained / (2 * math.pi * fast), theta))
    high = math.ceil(dim / 2 * math.log(trained / (2 * math.pi * slow), theta))
    low, high = max(low, 0), min(high, dim - 1)
    for i in range(dim // 2):
        plain = theta ** (-2 * i / dim)
        interpolated = plain / factor
        ramp = min(max((i - low) / ((high - low) or 0.001), 0.0), 1.0)
        out.append(interpolated * ramp + plain * (1 - ramp))
    return out


@pytest.mark.parametrize(("theta", "dim", "factor", "fast", "slow", "trained"), [
    (1e4, 64, 40, 32, 1, 4096),  # the released models
    (1e4, 8, 4, 8, 2, 64),
    (500.0, 16, 2, 1, 1, 128),
    (1e4, 16, 40, 32, 1, 6),  # trained on so few positions that the ramp has no width
])  # fmt: skip
def test_yarn_equals_its_formula(theta: float, dim: int, factor: float, fast: float, slow: float, trained: int) -> None:
    table = {"type": "yarn", "factor": factor, "beta_fast": fast, "beta_slow": slow}
    got = frequencies(theta, dim, read(table | {"original_max_position_embeddings": trained}), torch.float64)
    want = torch.tensor(yarn_by_hand(theta, dim, factor, fast, slow, trained), dtype=torch.float64)
    torch.testing.assert_close(got, want)
    plain = frequencies(theta, dim, None, torch.float64)
    assert got[0] == plain[0]
    assert got[-1] < plain[-1]


def test_llama3_equals_its_formula() -> None:
    got = frequencies(5e5, 128, read(LLAMA3), torch.float64).tolist()
    bands = set()
    for i, found in enumerate(got):
        plain = 5e5 ** (-2 * i / 128)
        wavelength = 2 * math.pi / plain
        if wavelength < 8192 / 4:
            want, band = plain, "short"
        elif wavelength > 8192 / 1:
            want, band = plain / 8, "long"
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            want, band = (1 - smooth) * plain / 8 + smooth * plain, "between"
        bands.add(band)
        assert found == pytest.approx(want, rel=1e-12)
    assert bands == {"short", "between", "long"}


@pytest.mark.parametrize(("given", "turn", "softmax"), [
    ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0, 1.3688879454113936**2),
    ({"mscale": 0.707, "mscale_all_dim": 0.707}, 1.0, (0.0707 * math.log(40) + 1) ** 2),
    ({"mscale": 1.0, "mscale_all_dim": 0.5}, ONE / HALF, HALF**2),
    ({}, ONE, 1.0),
    ({"mscale": 0.5}, HALF, 1.0),
    ({"mscale_all_dim": 0.5}, ONE / HALF, HALF**2),
])  # fmt: skip
def test_mscale_is_read_as_released(given: dict[str, float], turn: float, softmax: float) -> None:
    scaling = read(YARN | given)
    assert turn_scale(scaling) == pytest.approx(turn, rel=1e-12)
    assert softmax_factor(scaling) == pytest.approx(softmax, rel=1e-12)


def test_no_stretch_changes_nothing() -> None:
    assert mscale(1.0, 0.7) == 1.0
    for scaling in (None, read(LLAMA3)):
        assert turn_scale(scaling) == softmax_factor(scaling) == 1.0


def test_table_holds_the_turn_of_every_position() -> None:
    rope = Rope(config(rope_scaling=YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}), 8)
    like = torch.zeros(1, dtype=torch.float64)
    speed = frequencies(1e4, 8, rope.config.rope_scaling, torch.float64)
    for got, positions in ((rope.run(3, 4, like), range(3, 7)), (rope.at(torch.tensor([[9, 2]]), 10, like)[0], (9, 2))):
        for turn, position in zip(got, positions, strict=True):
            want = turn_scale(rope.config.rope_scaling) * torch.polar(torch.ones_like(speed), position * speed)
            torch.testing.assert_close(turn, want)


def test_tables_follow_dtype_and_length() -> None:
    rope = Rope(config(), 8)
    wide = {torch.bfloat16: torch.complex64, torch.float64: torch.complex128, torch.float32: torch.complex64}
    for dtype, want in wide.items():
        assert rope.run(0, 5, torch.zeros(1, dtype=dtype)).dtype == want
    assert rope.run(100, 3, torch.zeros(1)).shape == (3, 4)
    assert rope.run(0, 2, torch.zeros(1, device="meta")).is_meta


def test_table_made_in_inference_mode_serves_training() -> None:
    rope, x = Rope(config(), 8), torch.randn(3, 8)
    with torch.inference_mode():
        rope.run(0, 3, x)
    x.requires_grad_()
    rotate(x, rope.run(0, 3, x)).sum().backward()
    assert x.grad is not None


def test_attention_sees_relative_positions_only() -> None:
    rope = Rope(config(rope_scaling=YARN), 8)
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)

    def score(i: int, j: int) -> torch.Tensor:
        return rotate(q, rope.run(i, 1, q)[0]) @ rotate(k, rope.run(j, 1, k)[0])

    torch.testing.assert_close(score(11, 4), score(57, 50))
    assert abs(score(11, 4) - score(11, 5)) > 1e-3
