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


def test_the_steady_clock_times_the_second_of_two_calls_and_lets_the_device_run_on(cuda):
    durations = iter([9.0, 2.0])
    assert clock.Steady()(lambda: cuda.launch(next(durations))) == pytest.approx(2.0)
    assert cuda.log == ["record", "record", "synchronize"]


@pytest.fixture
def cold(cuda, monkeypatch):
    """A cold clock whose flush takes the device 60 us, and the host what the test says."""

    class Scratch:
        def zero_(self):
            cuda.log.append("flush")
            cuda.launch(60e-6)

    monkeypatch.setattr(torch, "empty", lambda *shape, **kinds: Scratch())
    host = [0.0]
    made = clock.Cold(180_000_000, now=lambda: host[0])
    made.host = host
    return made


def test_the_cold_clock_flushes_before_each_call_and_outside_the_time(cuda, cold):
    run = lambda: (cuda.log.append("run"), cuda.launch(7e-6))
    assert cold(run) == pytest.approx(7e-6)
    assert cuda.log == ["synchronize", "record", "flush", "record", "run", "record", "synchronize"]


def test_the_cold_clock_flushes_longer_than_the_host_needs(cuda, cold):
    def run():
        cold.host[0] += 200e-6  # a slow launcher
        cuda.launch(7e-6)

    assert cold(run) == pytest.approx(7e-6)
    assert cold.flushes == 4  # 240 us


def test_what_the_host_cannot_enqueue_in_time_has_no_cold_time(cuda, cold):
    def run():
        cold.host[0] += 1.0

    with pytest.raises(clock.HostBound, match="takes the host 1000000 us"):
        cold(run)
    assert cold.flushes == clock.Cold.MOST
