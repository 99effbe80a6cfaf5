"""How seconds are read. A clock runs a callable and returns the seconds that one call took.

host     the host's monotonic clock; for work that ends before the call returns (a CPU)
Cuda     CUDA events on the current stream; "hot": caches are left as the previous run left them
Steady   the same for a call that returns before its work is done, as a graph's replay: the device waits for no host
Cold     the same with the L2 flushed before each call; "cold"
Replay   a timer for pytest-benchmark, moved only by durations that were already measured
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

Clock = Callable[[Callable[[], object]], float]


def host(run: Callable[[], object]) -> float:
    """Seconds of host time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Cuda:
    """Seconds between two CUDA events around one call, on the current device and stream."""

    def __init__(self) -> None:
        import torch

        self.synchronize = torch.cuda.synchronize
        self.start: Any = torch.cuda.Event(enable_timing=True)
        self.end: Any = torch.cuda.Event(enable_timing=True)

    def __call__(self, run: Callable[[], object]) -> float:
        self.before()
        self.start.record()
        run()
        self.end.record()
        self.synchronize()
        return float(self.start.elapsed_time(self.end)) * 1e-3

    def before(self) -> None:
        """Work queued before must not run inside the interval."""
        self.synchronize()


class Steady(Cuda):
    """Seconds between two CUDA events around the second of two calls, back to back.

    While the first runs, the host enqueues the rest, so that no launch is in the time; and the second finds caches and
    clocks as a steady succession of calls leaves them.
    """

    def __call__(self, run: Callable[[], object]) -> float:
        run()
        return super().__call__(run)

    def before(self) -> None:
        """Do not wait: the device shall be busy."""


class HostBound(Exception):
    """Why a call has no cold time: to enqueue it takes the host longer than the flush takes the device."""


class Cold(Cuda):
    """Seconds between two CUDA events around one call, right behind a write of ``nbytes`` that flushes the L2.

    The flush keeps the device busy while the host enqueues the call, and is repeated until it does so long enough. The
    lines it left to be written back go to the call's account, as in every benchmark that flushes so.
    """

    MOST = 64  # flushes, some milliseconds

    def __init__(self, nbytes: int, now: Callable[[], float] = time.perf_counter) -> None:
        import torch

        super().__init__()
        self.scratch = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
        self.begin: Any = torch.cuda.Event(enable_timing=True)
        self.now = now
        self.flushes = 1

    def __call__(self, run: Callable[[], object]) -> float:
        while True:
            seconds, host, flush = self.once(run)
            if host < flush:
                return seconds
            if self.flushes >= self.MOST:
                took = f"takes the host {host * 1e6:.0f} us to enqueue, longer than {flush * 1e6:.0f} us of flushing"
                raise HostBound(took)
            self.flushes *= 2

    def once(self, run: Callable[[], object]) -> tuple[float, float, float]:
        """(seconds of the call, of the host to enqueue flushes and call, of the device to flush)."""
        self.synchronize()
        start = self.now()
        self.begin.record()
        for _ in range(self.flushes):
            self.scratch.zero_()
        self.start.record()
        run()
        self.end.record()
        host = self.now() - start
        self.synchronize()
        seconds, flush = self.start.elapsed_time(self.end), self.begin.elapsed_time(self.start)
        return float(seconds) * 1e-3, host, float(flush) * 1e-3


def for_device(device: str) -> Clock:
    """The clock of "cpu" or "cuda"."""
    return Cuda() if device == "cuda" else host


def name_for(device: str) -> Literal["device-hot", "host"]:
    """That clock's name in a Measurement."""
    return "device-hot" if device == "cuda" else "host"


class Replay:
    """Reads the time that ``advance`` has added up; seconds."""

    __name__ = "replay"  # is stored by pytest-benchmark; without it, an object's address would be

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
