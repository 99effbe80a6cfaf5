"""Pairs: same first weights, same data; gaps window by window."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from v3bench.model_ref.errors import BadInput
from v3bench.suite.train import pairs
from v3bench.suite.train.plan import FP32


def test_pairs_share_seeds_and_data(plan):
    one, other = (pairs.seeded(replace(plan, recipe=recipe), 3) for recipe in ("bf16", "fp8"))
    assert [(p.init, p.order) for p in one] == [(p.init, p.order) for p in other] == [(0, 0), (1, 1), (2, 2)]
    assert {p.recipe for p in other} == {"fp8"}
    assert len({p.as_json() for p in one + other}) == 6


def test_bases():
    assert pairs.base_of("bf16") == FP32
    assert pairs.base_of("fp8") == pairs.base_of("control-2-bit") == "bf16"


def test_gaps_are_signed_means_of_windows():
    base = [4.0, 2.0, 2.0, 2.0, 1.0, 3.0, 9.0]
    losses = [4.0, 2.3, 1.9, 1.9, 2.0, 2.2, 0.0]
    assert pairs.gaps(losses, base, 2) == pytest.approx([0.05, -0.05, 0.05])
    assert pairs.gaps(losses, base, 3) == pytest.approx([0.2 / 8, 0.1 / 6])


def test_late_is_the_second_half():
    assert pairs.late([9.0, 9.0, 1.0, 2.0]) == 1.5
    assert pairs.late([9.0, 9.0, 2.0]) == 2.0


def test_bad_input():
    with pytest.raises(BadInput, match="3 steps beside 4"):
        pairs.gaps([1.0] * 3, [1.0] * 4, 2)
    with pytest.raises(BadInput, match="at least two windows of 3"):
        pairs.gaps([1.0] * 5, [1.0] * 5, 3)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.lists(st.floats(0.5, 6), min_size=4, max_size=40), st.floats(-0.3, 0.3), st.integers(1, 2))
def test_a_run_that_is_off_by_a_factor_has_that_gap_throughout(base, off, window):
    found = pairs.gaps([loss * (1 + off) for loss in base], base, window)
    assert len(found) == len(base) // window
    assert found == pytest.approx([off] * len(found), abs=1e-12)
    assert pairs.late(found) == pytest.approx(off, abs=1e-12)
