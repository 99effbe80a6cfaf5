"""A stand-in for the parts of torch.cuda that the meter uses: a device whose launches take the time they are told.

The host enqueues at once; an event's time is when the device reaches it; ``log`` has what was asked of torch.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import pytest
import torch


class FakeCuda:
    """``launch(seconds)`` is a kernel; while a graph is captured it is recorded in place of being run."""

    def __init__(self) -> None:
        self.now, self.log, self.recording, self.mode = 0.0, [], None, "default"
        self.breaks: Exception | None = None  # what ending a capture raises

    def launch(self, seconds: float) -> None:
        if self.recording is not None:
            self.recording.append(seconds)
        else:
            self.now += seconds

    def wait(self) -> None:
        """What a library does that reads a result on the host."""
        if self.recording is not None or self.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nmore lines of CUDA's")

    def patch(self, monkeypatch) -> None:
        """Put it in torch.cuda's place."""
        device = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = device.now
                device.log.append("record")

            def elapsed_time(self, end):
                return (end.at - self.at) * 1e3

        class Stream:
            def wait_stream(self, other):
                device.log.append("wait_stream")

        class CUDAGraph:
            def __init__(self):
                self.launches = []

            def replay(self):
                device.log.append("replay")
                for seconds in self.launches:
                    device.launch(seconds)

            def reset(self):
                device.log.append("reset")

        @contextmanager
        def graph(made, pool, stream):
            device.recording = made.launches
            try:
                yield
            finally:
                device.recording = None
                if device.breaks:
                    raise device.breaks
                if not made.launches:
                    warnings.warn("The CUDA Graph is empty. This usually means ...", stacklevel=2)

        @contextmanager
        def stream(which):
            yield

        def set_mode(mode):
            device.mode = mode

        fakes = {
            "Event": Event, "Stream": Stream, "CUDAGraph": CUDAGraph, "graph": graph, "stream": stream,
            "current_stream": lambda: "default", "set_stream": lambda which: device.log.append(f"set_stream {which}"),
            "synchronize": lambda: device.log.append("synchronize"), "graph_pool_handle": lambda: (0, 1),
            "current_device": lambda: 0, "set_sync_debug_mode": set_mode, "get_sync_debug_mode": lambda: device.mode,
        }  # fmt: skip
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)


@pytest.fixture
def cuda(monkeypatch):
    """The stand-in, in torch.cuda's place."""
    device = FakeCuda()
    device.patch(monkeypatch)
    return device
