"""The rule by which paired runs are judged, fixed before the runs it judges. It knows no number of theirs.

Given for each seed is one signed relative gap of training loss (pairs.py):

    gap       the recipe's run against BF16's
    floor     BF16's run against FP32's: what the rounding costs that nobody objects to
    control   a recipe known to be coarser, against BF16

Runs from other first weights or in another order of data differ far more; that is context, never the floor. Outcomes,
in the order they are asked for:

    exceeds             the gap lies above the bar
    indistinguishable   it does not, and it is not shown to be larger than the floor
    below the bar       it is larger than the floor, and lies below the bar
    undecided           it is larger than the floor, and not shown to lie on either side of the bar

Each is a one-sided Student's t test over seeds at 5 %: a mean "lies above" where the low end of its 90 % interval does.
Larger than the floor is judged by the difference of both, seed by seed.

Whatever the outcome, it says nothing unless the same design tells the recipe from the control: the difference of their
gaps, seed by seed, has to lie above 0. Where it does not, the outcome carries ``not separated: the test has no power``,
with the difference found and the least one that would be seen four times in five; or ``coarser than the control``,
where the difference is shown to lie below 0. A recipe that claims to be no finer than the control is not asked.

``indistinguishable`` has a power of its own: beside it stands the least excess over the floor that would be seen four
times in five.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Literal

from v3bench.model_ref.errors import BadInput

Outcome = Literal["exceeds", "indistinguishable from the floor", "below the bar", "undecided"]
ALPHA = 0.05  # of each one-sided test
POWER = 0.80
FEWEST = 3  # seeds
NO_POWER = "not separated: the test has no power"
COARSER = "coarser than the control"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds between the limits of two one-sided tests."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Separation:
    """Whether a design tells the recipe from the control.

    ``scatter`` is the standard deviation of the difference over seeds.
    """

    difference: Interval
    scatter: float
    seeds: int

    @property
    def separated(self) -> bool:
        """Whether the control is shown to be the coarser."""
        return self.difference.low > 0

    @property
    def coarser(self) -> bool:
        """Whether the recipe is shown to be the coarser."""
        return self.difference.high < 0

    @property
    def effect(self) -> float:
        """The difference in its standard deviations."""
        mean = self.difference.mean
        return mean / self.scatter if self.scatter else math.copysign(math.inf, mean) if mean else 0.0

    @property
    def detectable(self) -> float:
        """The least difference that is seen with a chance of POWER."""
        return self.scatter * detectable(self.seeds)

    @property
    def power(self) -> float:
        """The chance to see the difference that was found, were it the true one."""
        return power(self.seeds, self.effect)

    def __str__(self) -> str:
        word = "separated" if self.separated else COARSER if self.coarser else NO_POWER
        apart = abs(self.difference.mean) if self.coarser else self.difference.mean
        return f"{word}: {apart:.3%} apart, {self.detectable:.3%} detectable with a power of {POWER:.0%}"


@dataclass(frozen=True)
class Judgement:
    """What a recipe's paired runs come to.

    ``excess`` is the gap less the floor, seed by seed; ``least`` the least excess that is seen with a chance of POWER.
    """

    outcome: Outcome
    gap: Interval
    floor: Interval
    excess: Interval
    separation: Separation
    seeds: int
    least: float

    def __str__(self) -> str:
        return self.outcome if self.separation.separated else f"{self.outcome}; {self.separation}"


def judge(gap: Sequence[float], floor: Sequence[float], control: Sequence[float], bar: float) -> Judgement:
    """The gaps of recipe, floor and control, a value for each seed, in one order; the bar in their unit.

    Raises BadInput for fewer than three seeds, for sequences that do not pair, and for gaps that are not finite.
    """
    if not len(gap) == len(floor) == len(control) or len(gap) < FEWEST:
        what = f"{len(gap)}, {len(floor)} and {len(control)} gaps"
        raise BadInput(what, where="judge", right=f"one for each of at least {FEWEST} seeds")
    for values in (gap, floor, control):
        finite(values)
    above = less(gap, floor)
    own, excess = interval(gap), interval(above)
    outcome: Outcome
    if own.low > bar:
        outcome = "exceeds"
    elif excess.low <= 0:
        outcome = "indistinguishable from the floor"
    else:
        outcome = "below the bar" if own.high < bar else "undecided"
    return Judgement(outcome, own, interval(floor), excess, separation(gap, control), len(gap), seen(above))


def separation(gap: Sequence[float], control: Sequence[float]) -> Separation:
    """Whether the control's gaps are larger than the recipe's, and how large a difference would be seen."""
    apart = less(control, gap)
    return Separation(interval(apart), stdev(apart), len(apart))


def seen(values: Sequence[float]) -> float:
    """The least mean over seeds that is seen with a chance of POWER, were the scatter found the true one."""
    return stdev(values) * detectable(len(values))


def finite(values: Sequence[float]) -> None:
    """Raise BadInput unless all are."""
    for value in values:
        if not math.isfinite(value):
            raise BadInput(f"a gap of {value}", where="gap", right="finite ones, of runs that did not diverge")


def less(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """a - b, seed by seed."""
    return [x - y for x, y in zip(a, b, strict=True)]


def interval(values: Sequence[float]) -> Interval:
    """The mean, and where two one-sided tests put its limits. Raises BadInput for values that are not finite."""
    finite(values)
    mean, reach = fmean(values), critical(len(values)) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - reach, mean + reach)


@cache
def critical(seeds: int) -> float:
    """What t of so many seeds exceeds with a chance of ALPHA, where the mean is 0."""
    return root(lambda t: chance(seeds, 0.0, t) < ALPHA)


@cache
def detectable(seeds: int) -> float:
    """The mean, in standard deviations, that the test of so many seeds sees with a chance of POWER."""
    return root(lambda effect: power(seeds, effect) > POWER)


def power(seeds: int, effect: float) -> float:
    """The chance that the test sees a mean of ``effect`` standard deviations."""
    return chance(seeds, effect, critical(seeds)) if math.isfinite(effect) else float(effect > 0)


def chance(seeds: int, effect: float, t: float) -> float:
    """The chance that Student's t of so many normal values, their mean ``effect`` standard deviations, exceeds t.

    Integrated over w, the standard deviation that is found over the true one: given it, t is normal.
    """
    free, shift, steps = seeds - 1, effect * math.sqrt(seeds), 400
    widest = 1 + 8 / math.sqrt(2 * free)  # eight standard deviations of w above its largest mean
    width, total = widest / steps, 0.0
    scale = math.log(2) + free / 2 * math.log(free / 2) - math.lgamma(free / 2)
    for n in range(1, steps + 1):  # Simpson's rule; at w = 0 the density is 0
        w = n * width
        density = math.exp(scale + (free - 1) * math.log(w) - free * w * w / 2)
        total += (1 if n == steps else 4 if n % 2 else 2) * density * math.erfc((t * w - shift) / math.sqrt(2)) / 2
    return total * width / 3


def root(above: Callable[[float], bool]) -> float:
    """Where ``above`` turns true between 0 and 1000, to ten digits."""
    low, high = 0.0, 1000.0
    while high - low > 1e-10 * (1 + high):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return high
