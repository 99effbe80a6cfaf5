"""How seconds are read. A clock runs a callable once and returns the seconds it took.

host     the host's monotonic clock; for work that ends before the call returns (a CPU)
Cuda     CUDA events on the current stream; "hot": caches are left as the previous run left them
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
        # Work queued before must not run inside the interval, nor the call's own work after it.
        self.synchronize()
        self.start.record()
        run()
        self.end.record()
        self.synchronize()
        return float(self.start.elapsed_time(self.end)) * 1e-3


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
