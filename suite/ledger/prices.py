"""Unit prices that the costs printed in ISCA Table 3 leave room for; the paper prints no price.

Things priced, in this order: switch, link (Dragonfly: its global links), Dragonfly's local link, endpoint cable.
"""

from __future__ import annotations

from functools import cache

from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws.topology import Bounded, price_ranges
from v3bench.suite.ledger.claims import read
from v3bench.suite.ledger.workings import work_out

NETWORKS = ("ft2", "mpft", "ft3", "sf", "df")


def printed(name: str) -> tuple[float, float]:
    """(lowest, highest) value that a claim's printed digits stand for when rounded, in SI-scaled dollars."""
    from v3bench.suite.ledger.units import to_si

    published = read(name).published
    number = published.number
    if isinstance(number, tuple):
        raise BadInput(f"claim {name!r} prints a range")
    half = published.last_digit / 2
    return to_si(number - half, published.unit), to_si(number + half, published.unit)


@cache
def network(name: str, prices: int) -> Bounded:
    """One network's counts of what is priced apart, and the costs that both printed columns allow."""
    steps = work_out(f"topology-{name}").steps
    count = {step: steps[step].value.quantity.value for step in steps}
    local = count.get("local_links", 0)
    counts = (count["switches"], count["links"] - local, local, count["endpoints"])
    if prices == 2:
        counts = (count["switches"], count["links"], 0, 0)
    low, high = printed(f"fabric-{name}-cost")
    per_low, per_high = (bound * count["endpoints"] for bound in printed(f"fabric-{name}-cost-per-endpoint"))
    return Bounded(counts[:prices], max(low, per_low), min(high, per_high))


@cache
def ranges(prices: int, networks: int) -> tuple[tuple[float, float], ...] | None:
    """Ranges of 2, 3 or 4 unit prices over the first ``networks`` networks; None if nothing fits."""
    if prices not in (2, 3, 4) or not 2 <= networks <= len(NETWORKS):
        raise BadInput(
            f"prices of {prices} kinds over {networks} networks", right="2, 3 or 4 kinds over 2 to 5 networks"
        )
    return price_ranges([network(name, prices) for name in NETWORKS[:networks]])


def prices_fit(prices: float, networks: float) -> int:
    """1 when some prices fit, else 0."""
    return int(ranges(int(prices), int(networks)) is not None)


def price_low(thing: float, prices: float, networks: float) -> float:
    """Lowest fitting price of a thing, dollars. Raises BadInput when nothing fits."""
    return found(prices, networks)[int(thing)][0]


def price_high(thing: float, prices: float, networks: float) -> float:
    """Highest fitting price of a thing, dollars. Raises BadInput when nothing fits."""
    return found(prices, networks)[int(thing)][1]


def found(prices: float, networks: float) -> tuple[tuple[float, float], ...]:
    fitting = ranges(int(prices), int(networks))
    if fitting is None:
        raise BadInput(f"no {int(prices)} unit prices fit the first {int(networks)} networks")
    return fitting
