"""How long a compiled kernel should take on a GPU, from its code and its grid: basis "modelled". No torch here.

The time is the largest of memory, L2, tensor cores and instruction issue, stretched by a last wave that does not fill
the chip. Where a single CTA fits an SM, nothing hides its issue behind its products, and the two add up. Every launch
costs its share of a graph. A measurement may refute all of it: a table says which rows were chosen so, and which timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

from v3bench.suite.laws.work import Work

SCHEDULERS = 4  # warps that an SM issues from in one clock
SLOW = {"MUFU": 8}  # clocks of a scheduler for a warp, where it is not one: 16 special functions an SM and clock


@dataclass(frozen=True)
class Machine:
    """What a GPU reaches, not what its datasheet says; SI."""

    sms: int
    clock: float
    bandwidth: float
    l2_bandwidth: float
    launch: float  # seconds of the smallest kernel in a graph
    flop_rate: Mapping[str, float]  # by Work.peak


class Compiled(Protocol):
    """What is known of a compiled launch (meter/compiled.py's Built)."""

    @property
    def programs(self) -> int: ...
    @property
    def l2_bytes(self) -> int: ...
    @property
    def passes(self) -> int: ...
    @property
    def warps(self) -> int: ...
    @property
    def ctas_per_sm(self) -> int: ...
    @property
    def instructions(self) -> Mapping[str, int]: ...
    @property
    def loop(self) -> Mapping[str, int]: ...
    @property
    def loop_flops(self) -> int: ...
    @property
    def loop_bytes(self) -> int: ...


@dataclass(frozen=True)
class Prediction:
    """Of the launch that does the work: its grid and code; of all launches: the time and the share of the roofline."""

    programs: int
    ctas_per_sm: int
    waves: float
    instructions_per_element: float
    seconds: float
    roofline_share: float

    def as_json(self, work: Work) -> dict[str, Any]:
        """The fields a launch table keeps, rounded to what a model may claim."""
        return {
            "flops": work.flops,
            "bytes": work.nbytes,
            "programs": self.programs,
            "ctas_per_sm": self.ctas_per_sm,
            "waves": round(self.waves, 3),
            "instructions_per_element": float(f"{self.instructions_per_element:.3g}"),
            "seconds": float(f"{self.seconds:.3g}"),
            "roofline_share": float(f"{self.roofline_share:.3g}"),
        }


def predict(work: Work, launches: Sequence[Compiled], machine: Machine) -> Prediction:
    """The time of an operation's launches, one after another; they must fit the machine (ctas_per_sm > 0)."""
    main = max(launches, key=lambda launch: (launch.loop_flops, issued(launch, 1)))
    times = passes(work, main)
    slots = machine.sms * main.ctas_per_sm
    waves = main.programs / slots
    # A grid smaller than the chip leaves SMs idle; a larger one ends in a wave that does.
    idle = max(machine.sms / main.programs, ceil(waves) / waves if waves > 1 else 1.0)
    issue = issued(main, times, SLOW) / (machine.sms * SCHEDULERS * machine.clock)
    padded = main.programs * main.passes * main.loop_flops
    products = max(work.flops, padded) / machine.flop_rate[work.peak] if work.peak else 0.0
    busy = max(products, issue) if main.ctas_per_sm > 1 else products + issue
    # Two CTAs' worth of loads saturate the memory of an SM's share: half the chip can still read at full speed.
    starved = max(machine.sms / (2 * main.programs), 1.0)
    from_l2 = sum(launch.l2_bytes for launch in launches)
    memory = max(work.nbytes / machine.bandwidth * starved, from_l2 / machine.l2_bandwidth)
    seconds = max(memory, busy * idle) + machine.launch * len(launches)
    bound = work.bound(machine.bandwidth, machine.flop_rate.get(work.peak))
    per_element = 32 * issued(main, times) / max(work.elements, 1)
    return Prediction(main.programs, main.ctas_per_sm, waves, per_element, seconds, bound / seconds)


def passes(work: Work, launch: Compiled) -> float:
    """How often a program runs through its loop: as its products or its bytes demand, whichever is more.

    A product padded to what the tensor cores take does more FLOPs than the operation needs, so bytes tell more there;
    not where the bulk copy engine moves them, as the loop's own loads are then the small ones beside it.
    """
    if launch.passes or not launch.loop:
        return launch.passes or 1.0
    by_flops = work.flops / launch.loop_flops if launch.loop_flops else 0.0
    copied = "UTMALDG" in launch.loop
    by_bytes = work.nbytes / launch.loop_bytes if launch.loop_bytes and not copied else 0.0
    return max(by_flops / launch.programs, by_bytes / launch.programs, 1.0)


def issued(launch: Compiled, times: float, clocks: Mapping[str, int] | None = None) -> float:
    """Warp instructions of the whole grid, with its loop run ``times`` per program; by ``clocks`` the issue clocks."""
    weigh = clocks or {}
    once, loop = (sum(n * weigh.get(op, 1) for op, n in of.items()) for of in (launch.instructions, launch.loop))
    return launch.programs * launch.warps * (once - loop + loop * times)
