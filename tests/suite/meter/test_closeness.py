"""The definitions of close accept rounding and refuse what is wrong in one place only."""

from __future__ import annotations

import pytest
import torch
from v3bench.suite.meter.closeness import rounding_error, scale_error


@pytest.fixture
def want():
    return torch.randn(32, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_scale_error_is_of_the_largest_value(want):
    got = want.clone()
    got[3, 5] += 1e-3 * want.abs().max()
    assert scale_error(got, want) == pytest.approx(1e-3)
    assert scale_error(want, want) == 0


def test_scale_error_refuses_what_is_not_finite(want):
    for value in (float("nan"), float("inf")):
        got = want.clone()
        got[0, 0] = value
        assert scale_error(got, want) == float("inf")
        assert rounding_error(got, want, torch.bfloat16) == float("inf")


def test_shapes_must_agree(want):
    for error in (scale_error, lambda a, b: rounding_error(a, b, torch.bfloat16)):
        with pytest.raises(ValueError, match="differ"):
            error(want[0], want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_one_rounding_is_below_one(want, dtype):
    assert 0.1 < rounding_error(want.to(dtype), want, dtype) < 1


def test_a_dead_row_and_a_dropped_column_are_seen(want):
    dead = want.clone()
    dead[7] = 0
    assert rounding_error(dead, want, torch.bfloat16) > 50
    dropped = want.clone()
    dropped[:, 9] = 0
    assert rounding_error(dropped, want, torch.bfloat16) > 5


def test_a_common_factor_is_seen(want):
    assert rounding_error(1.02 * want, want, torch.bfloat16) > 1
