"""Medians with intervals that follow from the number of samples alone."""

from __future__ import annotations

from math import comb
from random import Random

import pytest
from v3bench.suite.meter.statistics import Summary, median_interval, paired_ratio, ratio_claim, spread, steady, summary


def test_summary_of_known_samples():
    row = summary([5, 1, 4, 2, 3])
    assert (row.count, row.median, row.quartile1, row.quartile3, row.least, row.most) == (5, 3, 2, 4, 1, 5)
    assert (row.low, row.high) == (None, None)
    one = summary([2.5])
    assert (one.median, one.quartile1, one.quartile3, one.low) == (2.5, 2.5, 2.5, None)
    with pytest.raises(ValueError, match="no samples"):
        summary([])


@pytest.mark.parametrize("n, ranks", [(5, None), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (20, (6, 15)), (100, (40, 61))])
def test_interval_ranks_are_the_tabulated_ones(n, ranks):
    """Ranks of the 95 % sign-test interval, as tables of order statistics print them."""
    samples = list(range(1, n + 1))
    Random(n).shuffle(samples)
    assert median_interval(samples) == ranks


@pytest.mark.parametrize("n", [6, 7, 12, 33, 150])
def test_interval_is_the_narrowest_that_reaches_95_percent(n):
    low, high = median_interval(list(range(1, n + 1)))

    def coverage(rank):
        return 1 - 2 * sum(comb(n, k) for k in range(rank)) / 2**n

    assert low + high == n + 1
    assert coverage(low) >= 0.95 > coverage(low + 1)


def test_interval_holds_for_a_skewed_distribution():
    draw = Random(1)
    samples = [[draw.expovariate(1.0) for _ in range(15)] for _ in range(2000)]
    true = 0.6931471805599453
    inside = sum(low <= true <= high for low, high in map(median_interval, samples))
    assert 0.95 <= inside / len(samples) <= 0.985  # 96.5 % by the binomial


def test_paired_ratio_takes_drift_out():
    drift = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    row = paired_ratio([3 * x for x in drift], [2 * x for x in drift])
    assert (row.median, row.low, row.high) == (1.5, 1.5, 1.5)
    with pytest.raises(ValueError, match="do not pair"):
        paired_ratio([1.0], [1.0, 2.0])


def test_spread_is_from_p10_to_p90_over_the_median():
    assert spread([*range(90, 101), *range(101, 111)]) == pytest.approx(16 / 100)  # 92 to 108 of 90 to 110
    assert spread([2.0]) == 0
    one_wild = [1.0] * 20 + [50.0]
    assert spread(one_wild) == 0  # a tenth may be anything
    with pytest.raises(ValueError, match="no median"):
        spread([])


@pytest.mark.parametrize("width, is_steady", [(0.029, True), (0.031, False)])
def test_three_percent_is_the_limit(width, is_steady):
    samples = [1 - width / 2] * 5 + [1.0] * 5 + [1 + width / 2] * 5
    assert spread(samples) == pytest.approx(width)
    assert steady(samples) is is_steady
    assert steady([1.0] * 4) is False


def test_a_ratio_is_claimed_of_steady_samples_only():
    fast, slow = [1.0] * 30, [1.5] * 30
    claim = ratio_claim(slow, fast)
    assert isinstance(claim, Summary)
    assert (claim.median, claim.low, claim.high, claim.count) == (1.5, 1.5, 1.5, 30)
    wild = [1.0, 1.1] * 15
    assert ratio_claim(wild, fast) == "base spreads by 9.5%, above 3%"
    assert ratio_claim(slow, wild) == "new spreads by 9.5%, above 3%"
    assert ratio_claim(slow, fast[:4]) == "4 samples of new are fewer than 5"
    assert ratio_claim(slow, fast[:9]) == "30 and 9 samples do not pair"
