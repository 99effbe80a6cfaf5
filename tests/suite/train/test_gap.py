"""The rule on synthetic gaps: each outcome, its limits against tables, false positives and power by simulation."""

import math
import random
from statistics import NormalDist, stdev

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from v3bench.model_ref.errors import BadInput
from v3bench.suite.train import gap
from v3bench.suite.train.gap import judge

BAR = 0.0025
RUNS = 1000
SPREAD = [-1.0, 0.5, 0.8, -0.3]  # of four seeds, mean 0


def around(mean, scatter, shape=SPREAD):
    return [mean + scatter * x for x in shape]


def test_exceeds():
    found = judge(around(0.004, 2e-4), around(1e-4, 1e-4), around(0.008, 3e-4), BAR)
    assert (found.outcome, str(found)) == ("exceeds", "exceeds")


def test_below_the_bar():
    found = judge(around(0.001, 1e-4), around(0.0, 1e-4, SPREAD[::-1]), around(0.002, 2e-4), BAR)
    assert str(found) == "below the bar"
    assert found.excess.low > 0


def test_indistinguishable():
    found = judge(around(1e-4, 1e-4), around(1e-4, 1e-4, SPREAD[::-1]), around(0.001, 1e-4), BAR)
    assert str(found) == "indistinguishable from the floor"


def test_undecided():
    found = judge(around(0.0025, 1e-3), around(0.0, 1e-4), around(0.008, 1e-3), BAR)
    assert found.outcome == "undecided"
    assert found.gap.low < BAR < found.gap.high


def test_a_floor_above_the_bar_takes_the_gap_with_it():
    """A gap no larger than the floor is not held against the recipe, unless it is shown to lie above the bar."""
    assert judge(around(0.002, 3e-3), around(0.004, 3e-3), around(0.02, 3e-3), BAR).outcome.startswith("indist")
    assert judge(around(0.004, 1e-4), around(0.004, 1e-4), around(0.02, 1e-4), BAR).outcome == "exceeds"


def test_no_power_is_said():
    found = judge(around(1e-4, 1e-4), around(1e-4, 1e-4), around(2e-4, 8e-4), BAR)
    assert not found.separation.separated
    assert str(found).startswith("indistinguishable from the floor; not separated: the test has no power: 0.010% apart")
    assert found.separation.detectable > found.separation.difference.mean
    assert found.separation.power < gap.POWER


def test_a_control_that_does_better_is_not_separated():
    found = judge(around(1e-3, 1e-5), around(0, 1e-5, SPREAD[::-1]), around(5e-4, 1e-5, SPREAD[::-1]), BAR)
    assert not found.separation.separated


def test_a_recipe_coarser_than_the_control_is_said_to_be():
    found = judge(around(0.02, 1e-4), around(0, 1e-4, SPREAD[::-1]), around(0.004, 2e-4), BAR)
    assert found.separation.coarser
    assert str(found).startswith("exceeds; coarser than the control: 1.600% apart, 0.0")
    assert gap.NO_POWER not in str(found)


def test_the_floor_s_power_is_that_of_the_excess():
    own, floor = around(1e-4, 1e-4), around(1e-4, 1e-4, SPREAD[::-1])
    found = judge(own, floor, around(0.001, 1e-4), BAR)
    assert found.least == pytest.approx(stdev(gap.less(own, floor)) * gap.detectable(4))
    assert found.excess.low < 0 < found.excess.high < found.least


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(3))
def test_gaps_that_are_not_finite(value, place):
    sides = [around(0.001, 1e-4), around(0.0, 1e-4), around(0.002, 1e-4)]
    sides[place] = [value, *sides[place][1:]]
    with pytest.raises(BadInput, match=f"a gap of {value}:?"):
        judge(*sides, BAR)


def test_bad_input():
    for gaps in (([1, 2], [1, 2], [1, 2]), ([1, 2, 3], [1, 2, 3], [1, 2]), ([1, 2, 3, 4], [1, 2, 3], [1, 2, 3])):
        with pytest.raises(BadInput, match="one for each of at least 3 seeds"):
            judge(*gaps, BAR)


def test_without_scatter():
    found = judge([0.001] * 3, [0.0] * 3, [0.002] * 3, BAR)
    assert (found.outcome, found.separation.effect, found.separation.power) == ("below the bar", math.inf, 1.0)
    assert gap.separation([0.001] * 3, [0.001] * 3).power == pytest.approx(gap.ALPHA)
    assert gap.separation([0.001] * 3, [0.0] * 3).power == 0.0


# Tables of Student's t, and of the power of a one-sided one-sample t test, to the digits they print.
@pytest.mark.parametrize("seeds, t", [(3, 2.9200), (4, 2.3534), (6, 2.0150), (11, 1.8125), (31, 1.6973)])
def test_critical_values(seeds, t):
    assert gap.critical(seeds) == pytest.approx(t, abs=1e-4)


def test_power_tends_to_that_of_the_normal_test():
    assert gap.power(2000, 0.05) == pytest.approx(NormalDist().cdf(0.05 * 2000**0.5 - 1.6449), abs=2e-3)
    assert gap.power(5, 0.0) == pytest.approx(gap.ALPHA)
    assert gap.power(5, gap.detectable(5)) == pytest.approx(gap.POWER)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=8), st.floats(-1, 1))
def test_interval_moves_with_the_values(values, shift):
    one, other = gap.interval(values), gap.interval([value + shift for value in values])
    assert one.low <= one.mean <= one.high
    assert other.low == pytest.approx(one.low + shift, abs=1e-9)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.permutations(range(4)))
def test_the_order_of_seeds_does_not_matter(order):
    sides = around(0.001, 1e-4), around(0.0, 2e-4, SPREAD[::-1]), around(0.002, 3e-4)
    one, other = judge(*sides, BAR), judge(*([side[n] for n in order] for side in sides), BAR)
    assert one.outcome == other.outcome
    assert one.excess.low == pytest.approx(other.excess.low)


def drawn(chance, seeds, fp8, control, scatter=2e-4):
    """Gaps of runs whose losses are off by chance, independently: a pair shares BF16's run with the next."""
    wide, base, narrow, coarse = ([chance.gauss(0, scatter) for _ in range(seeds)] for _ in range(4))
    return (
        [n - b + fp8 for n, b in zip(narrow, base, strict=True)],
        [b - w for b, w in zip(base, wide, strict=True)],
        [c - b + control for c, b in zip(coarse, base, strict=True)],
    )


@pytest.mark.parametrize("seeds", [3, 6])
def test_false_positives(seeds):
    """Without any difference, 5 % are found larger than the floor, and 5 % separated from the control."""
    chance = random.Random(seeds)
    found = [judge(*drawn(chance, seeds, 0.0, 0.0), BAR) for _ in range(RUNS)]
    larger = sum(not j.outcome.startswith("indist") for j in found) / RUNS
    separated = sum(j.separation.separated for j in found) / RUNS
    sure = 4 * math.sqrt(0.05 * 0.95 / RUNS)
    assert abs(larger - gap.ALPHA) < sure
    assert abs(separated - gap.ALPHA) < sure


@pytest.mark.parametrize("seeds", [3, 6])
def test_at_the_bar_one_in_twenty_exceeds(seeds):
    chance = random.Random(seeds)
    found = [judge(*drawn(chance, seeds, BAR, 2 * BAR), BAR).outcome for _ in range(RUNS)]
    assert abs(found.count("exceeds") / RUNS - gap.ALPHA) < 4 * math.sqrt(0.05 * 0.95 / RUNS)
    assert found.count("below the bar") / RUNS < gap.ALPHA + 4 * math.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize("seeds", [3, 6])
def test_power_is_what_is_stated(seeds):
    """A control that is off by what counts as detectable is separated four times in five."""
    chance, scatter = random.Random(seeds), 2e-4
    apart = gap.detectable(seeds) * scatter * math.sqrt(2)  # of the difference of two runs
    found = [judge(*drawn(chance, seeds, 0.0, apart, scatter), BAR) for _ in range(RUNS)]
    assert sum(j.separation.separated for j in found) / RUNS == pytest.approx(
        gap.POWER, abs=0.05
    )  # four standard errors
