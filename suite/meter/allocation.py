"""Bytes of memory that tensors really take on a device, by the account of torch's own allocator."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from v3bench.suite.meter import machine


def too_large(nbytes: int, device: str) -> str:
    """Why this many bytes do not fit on the device now, or ""."""
    available = torch.cuda.mem_get_info()[0] if device == "cuda" else machine.memory()[1]
    return machine.shortage(nbytes, available, device)


def materialised(shapes: Sequence[Tensor], device: str) -> list[Tensor]:
    """Tensors like these on the device, every page touched."""
    made = [torch.empty_like(shape, device=device) for shape in shapes]
    for tensor in made:
        tensor.fill_(1)
    return made


def allocated(make: Callable[[], Sequence[Tensor]], device: str) -> int:
    """Bytes that torch's allocator has handed out for the tensors ``make`` returns.

    On CUDA the difference of ``memory_allocated``; on a CPU, whose allocator keeps no sum, what it reports to the
    profiler. Raises AssertionError when on a CPU the process has not grown accordingly: then no memory stands behind.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        held = make()
        torch.cuda.synchronize()
        grown = torch.cuda.memory_allocated() - before
        del held
        return grown
    trim()
    before = resident()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        held = make()
    grown = resident() - before
    del held
    reported = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    # Half, since what was freed before may be used again; pages never touched would show as next to nothing.
    assert grown > reported / 2, f"the process grew by {grown} bytes while the allocator handed out {reported}"
    return int(reported)


def resident() -> int:
    """Bytes of this process in main memory; Linux."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def trim() -> None:
    """Give freed memory back to the system where the C library can, so that growth shows."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)
