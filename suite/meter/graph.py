"""A launch as a captured CUDA graph over rotating buffers: what device-hot times are taken from.

    sets_needed   how many buffer sets keep each launch from finding its data in the L2
    Rotation      the same launch over several buffer sets, in turn
    capture       whole rounds of them as one graph that lasts long enough for CUDA's events
    Uncapturable  why a launch cannot be captured

A replay costs the host one launch, so that neither Python nor a launcher's checks are in the time; and no launch reads
what the one before it left in the L2, unless its data is smaller than the sets can make up for. torch.cuda is touched
only when something is captured.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from v3bench.suite.meter.clock import Clock, Steady
from v3bench.suite.meter.contender import Call, in_one_line

FLUSH = 3  # times the L2 that are gone over before data comes round again: the L2 of Hopper is two halves
LEAST_SECONDS = 200e-6  # of a replay: events resolve about 0.5 us, a quarter of a percent of it
MOST_LAUNCHES = 4096  # of one graph, so that a launch of nanoseconds does not take for ever to capture


class Uncapturable(Exception):
    """Why a launch cannot be captured in a CUDA graph: it waits for the device, or is on a stream of its own."""


def sets_needed(bytes_per_set: int, l2_bytes: int, most: int = 64) -> int:
    """Buffer sets whose sum is above ``FLUSH`` times the L2; at most ``most``, which tiny sets do not reach it with.

    The bytes of a set are those a launch reads and writes, outputs included.
    """
    if bytes_per_set < 1:
        raise ValueError(f"a set of {bytes_per_set} bytes")
    return min(most, FLUSH * l2_bytes // bytes_per_set + 1)


def l2_bytes(properties: Any = None) -> int:
    """Bytes of the GPU's L2 from torch's device properties. Raises RuntimeError where torch does not tell."""
    if properties is None:
        import torch

        properties = torch.cuda.get_device_properties()
    # L2_cache_size in torch 2.11 to 2.13, l2_cache_size in other attributes' manner.
    size = getattr(properties, "L2_cache_size", 0) or getattr(properties, "l2_cache_size", 0)
    if not size:
        raise RuntimeError("torch does not tell the size of this GPU's L2")
    return int(size)


class Rotation:
    """The same launch over several buffer sets: each call is that of the next set."""

    def __init__(self, calls: Sequence[Call]) -> None:
        if not calls:
            raise ValueError("no calls to rotate")
        self.calls = tuple(calls)
        self.position = -1

    def __call__(self) -> object:
        self.position = (self.position + 1) % len(self.calls)
        return self.calls[self.position]()

    def round(self) -> list[object]:
        """Every set once; their outputs."""
        return [call() for call in self.calls]


@dataclass
class Captured:
    """A graph of ``launches`` launches. ``kept`` holds their outputs: graph and tensors share the memory."""

    graph: Any
    launches: int
    kept: list[object] = field(default_factory=list)

    def replay(self) -> None:
        """Enqueue all launches on the current stream; returns at once."""
        self.graph.replay()

    def release(self) -> None:
        """Give the graph's memory back; no replay after this."""
        self.kept.clear()
        self.graph.reset()


def capture(calls: Sequence[Call], *, least_seconds: float = LEAST_SECONDS, clock: Clock | None = None) -> Captured:
    """Warm the calls up and capture whole rounds of them, until one replay lasts ``least_seconds``.

    Raises Uncapturable with the reason; what a call raises on its own account passes through.
    """
    import torch

    rotation = Rotation(calls)
    stream = torch.cuda.Stream()
    warm_up(rotation, stream)
    once = recorded(rotation, 1, stream)
    clock = clock or Steady()
    rounds = rounds_for(min(clock(once.replay) for _ in range(3)), least_seconds, len(calls))
    if rounds == 1:
        return once
    once.release()
    return recorded(rotation, rounds, stream)


def rounds_for(seconds: float, least_seconds: float, launches: int) -> int:
    """How often a round of ``seconds`` and so many launches goes into one graph."""
    return max(1, min(ceil(least_seconds / max(seconds, 1e-9)), MOST_LAUNCHES // launches))


def warm_up(rotation: Rotation, stream: Any) -> None:
    """Run every call twice on the stream that captures: compile, tune, allocate; then see that none waits.

    A failed capture can leave torch's allocator and generators in disorder, hence the look beforehand.
    """
    import torch

    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        rotation.round()
        with synchronising_raises():
            try:
                rotation.round()
            except Exception as error:
                raise Uncapturable(f"cannot be captured in a CUDA graph: {in_one_line(error)}") from error
    torch.cuda.synchronize()


@contextmanager
def synchronising_raises() -> Iterator[None]:
    """While active, torch raises where it would wait for the device."""
    import torch

    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def recorded(rotation: Rotation, rounds: int, stream: Any) -> Captured:
    """So many rounds as one graph, outputs of a round kept apart. Raises Uncapturable."""
    import torch

    graph, pool, before = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
    # An output that is freed at once would be the next launch's too, and stay in the L2.
    kept: list[object] = [None] * len(rotation.calls)
    try:
        with empty_raises(), torch.cuda.graph(graph, pool=pool, stream=stream):
            for _ in range(rounds):
                for i, call in enumerate(rotation.calls):
                    kept[i] = call()
    except Exception as error:
        reason = in_one_line(innermost(error))
        abandon(graph, pool, before)
        raise Uncapturable(f"cannot be captured in a CUDA graph: {reason}") from error
    return Captured(graph, rounds * len(kept), kept)


@contextmanager
def empty_raises() -> Iterator[None]:
    """While active, a graph without a node is an error, where torch only warns: its replay would take no time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*CUDA Graph is empty")
        yield


def innermost(error: BaseException) -> BaseException:
    """The exception that ending the capture has covered with its own, or the exception itself."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def abandon(graph: Any, pool: Any, stream: Any) -> None:
    """Put torch back in order after a capture that failed: it then leaves stream and allocator as they were within."""
    import torch

    torch.cuda.set_stream(stream)
    with suppress(Exception):
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
    with suppress(Exception):
        graph.reset()
