"""The 95 % interval of a mean over files.

Tokens of one file resemble each other, so an interval over tokens would be too narrow: the file is the sample, and its
mean over equally many positions the value. Student's t, by the integral of train/gap.py, whose own interval is that of
two one-sided tests, 90 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean, stdev

from v3bench.model_ref.errors import BadInput
from v3bench.suite.train.gap import FEWEST, Interval, chance, finite, root

OUTSIDE = 0.05


def over_files(values: Sequence[float]) -> Interval:
    """Mean and 95 % limits of a value a file. Raises BadInput for fewer than three, and for one that is not finite."""
    if len(values) < FEWEST:
        raise BadInput(f"{len(values)} files", where="interval", right=f"at least {FEWEST}")
    finite(values)
    mean, reach = fmean(values), widening(len(values)) * stdev(values)
    return Interval(mean, mean - reach, mean + reach)


@cache
def widening(files: int) -> float:
    """Half the interval's width in standard deviations of so many values."""
    return root(lambda t: chance(files, 0.0, t) < OUTSIDE / 2) / math.sqrt(files)
