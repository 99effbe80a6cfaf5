"""Network topologies: what exists, and what unit prices a set of printed costs leaves room for (ISCA Table 3).

The paper prints switches, links and costs, but no price. Each printed cost, being rounded, bounds a sum of unit prices
from both sides; ``price_ranges`` says which prices satisfy all of them together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

TINY = 1e-7  # relative; rows and bounds are of the order of a million dollars


@dataclass(frozen=True)
class Bounded:
    """One network: how many of each priced thing it has, and between what costs it was printed."""

    counts: tuple[float, ...]
    low: float
    high: float


def is_prime_power(q: int) -> bool:
    """Whether a finite field of order ``q`` exists, which Slim Fly's MMS graphs are built on."""
    for p in range(2, q + 1):
        if q % p == 0:
            while q % p == 0:
                q //= p
            return q == 1
    return False


def price_ranges(networks: Sequence[Bounded]) -> tuple[tuple[float, float], ...] | None:
    """(lowest, highest) of each unit price, none negative, over all prices that fit every network; None if none fit.

    The fitting prices form a polytope, so the extremes lie at corners: every choice of as many bounds as there are
    prices is solved and kept where it satisfies the rest. Three or four prices make that a few hundred small systems.
    """
    size = len(networks[0].counts)
    planes = [(network.counts, bound) for network in networks for bound in (network.low, network.high)]
    planes += [(tuple(float(i == j) for j in range(size)), 0.0) for i in range(size)]
    corners = []
    for chosen in itertools.combinations(planes, size):
        corner = solve([list(row) for row, _ in chosen], [bound for _, bound in chosen])
        if corner is not None and fits(corner, networks):
            corners.append(corner)
    if not corners:
        return None
    return tuple((max(0.0, min(prices)), max(prices)) for prices in zip(*corners, strict=True))


def fits(prices: Sequence[float], networks: Sequence[Bounded]) -> bool:
    """Whether unit prices satisfy every bound."""
    if min(prices) < -TINY * max(map(abs, prices)):
        return False
    for network in networks:
        cost = sum(n * price for n, price in zip(network.counts, prices, strict=True))
        if not network.low * (1 - TINY) <= cost <= network.high * (1 + TINY):
            return False
    return True


def solve(rows: list[list[float]], right: list[float]) -> list[float] | None:
    """The solution of a small linear system by elimination with pivoting; None where there is not just one."""
    n = len(rows)
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        if abs(rows[pivot][i]) < TINY:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        right[i], right[pivot] = right[pivot], right[i]
        for r in range(n):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
                right[r] -= factor * right[i]
    return [right[i] / rows[i][i] for i in range(n)]
