"""Rotation: both layouts of the pairs, against two-by-two matrices."""

from __future__ import annotations

import math

import pytest
import torch
from v3bench.kernels.rotate import reference, rotate


def turns_of(positions: int, pairs: int) -> torch.Tensor:
    angles = torch.rand(positions, pairs, dtype=torch.float64) * 6
    return torch.polar(torch.ones_like(angles), angles)


@pytest.mark.parametrize("interleaved", [True, False])
def test_launcher_equals_the_definition(interleaved: bool) -> None:
    x, turns = torch.randn(2, 5, 3, 8, dtype=torch.float64), turns_of(5, 4)[:, None]
    got = rotate(x, turns, interleaved=interleaved)
    torch.testing.assert_close(got, reference(x, turns, interleaved=interleaved))


@pytest.mark.parametrize(("interleaved", "pair"), [(True, (2, 3)), (False, (1, 5))])
def test_a_pair_is_turned_by_its_angle_and_the_others_stay(interleaved: bool, pair: tuple[int, int]) -> None:
    turns = torch.ones(4, dtype=torch.complex128)
    turns[1] = torch.polar(torch.tensor(1.0).double(), torch.tensor(math.pi / 6).double())
    x = torch.randn(8, dtype=torch.float64)
    want = x.clone()
    a, b = x[pair[0]], x[pair[1]]
    cos, sin = math.sqrt(3) / 2, 0.5
    want[pair[0]], want[pair[1]] = a * cos - b * sin, a * sin + b * cos
    for turn in (rotate, reference):
        torch.testing.assert_close(turn(x, turns, interleaved=interleaved), want)


def test_views_that_start_at_odd_places_are_turned_too() -> None:
    x, turns = torch.randn(2, 3, 15, dtype=torch.float32), turns_of(3, 4).to(torch.complex64)
    torch.testing.assert_close(rotate(x[..., 7:], turns), reference(x[..., 7:].contiguous(), turns))


def test_bfloat16_is_turned_in_float32() -> None:
    x, turns = torch.randn(3, 8).bfloat16(), turns_of(3, 4).to(torch.complex64)
    assert torch.equal(rotate(x, turns), rotate(x.float(), turns).bfloat16())


def test_gradient_turns_back() -> None:
    x, turns = torch.randn(3, 8, dtype=torch.float64, requires_grad=True), turns_of(3, 4)
    g = torch.randn(3, 8, dtype=torch.float64)
    rotate(x, turns).backward(g)
    torch.testing.assert_close(x.grad, rotate(g, turns.conj()))
