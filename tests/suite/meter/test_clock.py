"""Clocks read what a call takes; the replay moves only by what it is told."""

from __future__ import annotations

import pytest
import torch
from v3bench.suite.meter import clock


def test_host_clock_runs_the_call_once(monkeypatch):
    ticks, calls = iter([10.0, 12.5]), []
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(ticks))
    assert clock.host(lambda: calls.append(1)) == 2.5
    assert calls == [1]


def test_replay_adds_up_and_has_a_name():
    replay = clock.Replay()
    start = replay()
    replay.advance(0.25)
    replay.advance(0.5)
    assert replay() - start == 0.75
    assert replay.__name__ == "replay"


def test_a_cpu_is_read_by_the_host_clock():
    assert clock.for_device("cpu") is clock.host
    assert clock.name_for("cpu") == "host"
    assert clock.name_for("cuda") == "device-hot"


class Event:
    """A CUDA event on a device that takes what the log says."""

    log: list[str]

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.log.append("record")

    def elapsed_time(self, end):
        assert self.log[-1] == "synchronize"  # before that the end has not been reached
        return 3.0


def test_cuda_clock_waits_before_and_after(monkeypatch):
    log = Event.log = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("synchronize"))
    assert clock.Cuda()(lambda: log.append("run")) == pytest.approx(3e-3)
    assert log == ["synchronize", "record", "run", "record", "synchronize"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_clock_sees_the_device_and_not_the_launch():
    a = torch.randn(4096, 4096, device="cuda")
    cuda = clock.for_device("cuda")
    many, one = (min(cuda(lambda n=n: [a @ a for _ in range(n)]) for _ in range(5)) for n in (20, 1))
    assert 10 < many / one < 40
