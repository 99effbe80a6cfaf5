"""What samples say: a median and an interval that holds whatever their distribution. No numpy, no chance.

The interval of a median runs from one ordered sample to another: the number of samples below the true
median is binomial(n, 1/2), so the ranks follow from n alone. Below six samples no interval reaches 95 %,
and none is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median, quantiles


@dataclass(frozen=True)
class Summary:
    """Samples in one row: ``low`` and ``high`` enclose the median with 95 % confidence, None for few samples."""

    count: int
    median: float
    low: float | None
    high: float | None
    quartile1: float
    quartile3: float
    least: float
    most: float


def summary(samples: Sequence[float]) -> Summary:
    """The row of one or more samples. Raises ValueError for none."""
    if not samples:
        raise ValueError("no samples")
    first, _, third = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
    low, high = median_interval(samples) or (None, None)
    return Summary(len(samples), median(samples), low, high, first, third, min(samples), max(samples))


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The narrowest pair of ordered samples that encloses the median with this confidence, or None."""
    ordered, n = sorted(samples), len(samples)
    outside, rank = 0, 0
    # `outside` / 2^n is the chance that fewer than `rank` + 1 samples lie below the median.
    while rank < n // 2 and 2 * (outside + comb(n, rank)) <= (1 - confidence) * 2**n:
        outside += comb(n, rank)
        rank += 1
    return (ordered[rank - 1], ordered[n - rank]) if rank else None


def paired_ratio(base: Sequence[float], new: Sequence[float]) -> Summary:
    """base / new of samples taken side by side: above 1, ``new`` is the faster. Raises ValueError."""
    if len(base) != len(new):
        raise ValueError(f"{len(base)} and {len(new)} samples do not pair")
    return summary([a / b for a, b in zip(base, new, strict=True)])


STEADY = 0.03  # of the median: what clocks and neighbours do to a kernel that is timed well
FEWEST = 5  # samples, below which no percentile means anything


def spread(samples: Sequence[float]) -> float:
    """(p90 - p10) / median of positive samples; 0 for one. Raises ValueError for none."""
    if len(samples) < 2:
        return 0.0 * median(samples)
    cuts = quantiles(samples, n=10, method="inclusive")
    return (cuts[-1] - cuts[0]) / median(samples)


def steady(samples: Sequence[float]) -> bool:
    """Whether samples of a device clock are many and close enough together to claim anything from."""
    return len(samples) >= FEWEST and spread(samples) <= STEADY


def ratio_claim(base: Sequence[float], new: Sequence[float]) -> Summary | str:
    """``paired_ratio`` of samples that are steady on both sides, or the reason why none is claimed."""
    for who, samples in (("base", base), ("new", new)):
        if len(samples) < FEWEST:
            return f"{len(samples)} samples of {who} are fewer than {FEWEST}"
        if not steady(samples):
            return f"{who} spreads by {spread(samples):.1%}, above {STEADY:.0%}"
    if len(base) != len(new):
        return f"{len(base)} and {len(new)} samples do not pair"
    return paired_ratio(base, new)
