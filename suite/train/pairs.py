"""Paired runs: the same first weights and the same data in another arithmetic, and how far their losses lie apart.

seeded  a plan with each of some seeds
gaps    signed relative differences, window by window
late    their mean over the second half of the run: one number a pair
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from v3bench.model_ref.errors import BadInput

if TYPE_CHECKING:  # plan.py needs torch, and the report reads pairs without it
    from v3bench.suite.train.plan import Plan

BASE = {"bf16": "fp32"}  # what a recipe is held against, where it is not BF16: the pair that is the floor


def base_of(recipe: str) -> str:
    """The recipe of the other run of the pair."""
    return BASE.get(recipe, "bf16")


def seeded(plan: Plan, seeds: int) -> list[Plan]:
    """The runs of a plan, one for each seed; pairs are what two plans have at the same place.

    A seed is both another initialisation and another order of the data.
    """
    return [replace(plan, init=plan.init + n, order=plan.order + n) for n in range(seeds)]


def gaps(losses: Sequence[float], base: Sequence[float], window: int) -> list[float]:
    """(mean of losses - mean of base) / mean of base for each window of so many steps; the rest at the end is left out.

    Single steps scatter far more than two runs differ, and the scatter is the batch's, the same in both. Raises
    BadInput for runs of different lengths, and for less than two windows.
    """
    if len(losses) != len(base):
        raise BadInput(f"{len(losses)} steps beside {len(base)}", where="gap", right="runs of one length")
    starts = range(0, len(base) - window + 1, window)
    if len(starts) < 2:
        raise BadInput(f"{len(base)} steps", where="gap", right=f"at least two windows of {window}")
    pairs = [(fmean(losses[at : at + window]), fmean(base[at : at + window])) for at in starts]
    return [(mean - other) / other for mean, other in pairs]


def late(found: Sequence[float]) -> float:
    """The mean of the windows of the second half; of an odd number the middle one is left out."""
    return fmean(found[(len(found) + 1) // 2 :])
