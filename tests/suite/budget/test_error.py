"""The measures of the error budget: magnitude and direction are told apart."""

from __future__ import annotations

import math

import pytest
import torch
from v3bench.suite.budget.error import error


def test_a_tensor_is_at_no_distance_from_itself():
    x = torch.randn(3, 4)
    assert error(x, x) == pytest.approx((0, 1, 0))


def test_what_is_too_small_has_the_right_direction():
    x = torch.randn(3, 4, dtype=torch.float64)
    assert error(0.9 * x, x) == pytest.approx((0.1, 1, 0.1))


def test_what_is_turned_has_the_right_length():
    found = error(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    assert found == pytest.approx((math.sqrt(2), 0, math.sqrt(2)))


def test_one_wrong_row_shows_among_many():
    want = torch.ones(1000, 8)
    got = want.clone()
    got[17] = 0
    assert error(got, want).relative == pytest.approx(math.sqrt(1 / 1000))
    assert error(got, want).worst_row == pytest.approx(1)


def test_a_tensor_of_zeros_has_no_relative_error():
    assert all(math.isnan(value) for value in error(torch.ones(2, 2), torch.zeros(2, 2)) if not math.isinf(value))
