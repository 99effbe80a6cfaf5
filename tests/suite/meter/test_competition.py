"""A case's contenders on a pretended GPU, whose clock the test winds: times, fates, throttled rounds, energy."""

from __future__ import annotations

from functools import partial
from statistics import median
from types import SimpleNamespace

import pytest
import torch
from v3bench.suite.meter import competition
from v3bench.suite.meter.competition import Instruments, compete
from v3bench.suite.meter.contender import Contender
from v3bench.suite.meter.graph import Uncapturable
from v3bench.suite.meter.measure import MOST_VOID, Effort
from v3bench.suite.meter.telemetry import Snapshot

EFFORT = Effort(rounds=8, warmup=1, seconds=100.0)


class Graph:
    """What a fake capture gives: four launches in one replay."""

    launches = 4

    def __init__(self, gpu, call):
        self.gpu, self.call, self.released = gpu, call, False

    def replay(self):
        for _ in range(self.launches):
            self.call()

    def release(self):
        self.released = True


class Gpu:
    """A GPU on which time passes only as launches say; ``reasons`` are what its telemetry tells, one a snapshot."""

    def __init__(self, reasons=(), watts=500.0):
        self.now, self.order, self.graphs, self.seen, self.watts = 0.0, [], [], 0, watts
        self.reasons = iter(reasons)

    def call(self, name, seconds):
        def launch():
            self.order.append(name)
            self.now += seconds

        return launch

    def capture(self, calls):
        for call in calls:
            call()
        self.graphs.append(Graph(self, calls[0]))
        return self.graphs[-1]

    def clock(self, run):
        start = self.now
        self.order.append("|")
        run()
        self.order.append("|")
        return self.now - start

    def snapshot(self):
        self.seen += 1
        return Snapshot(sm_clock=1e9 + self.seen, power=self.watts, reasons=next(self.reasons, ()))

    def energy(self):
        return self.now * self.watts

    def others(self):
        return 2

    def instruments(self, telemetry=True):
        return Instruments(
            capture=self.capture, hot=lambda: self.clock, cold=lambda: self.clock, synchronize=lambda: None,
            telemetry=self if telemetry else None, now=lambda: self.now,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(competition, "watched", lambda *given: real(*given, rest=lambda seconds: None, now=lambda: 0.0))


real = competition.watched


def two(gpu):
    return {
        "s/a": Contender([gpu.call("a", 0.001), gpu.call("a", 0.001)]), "s/b": Contender([gpu.call("b", 0.003)]),
    }  # fmt: skip


def test_times_are_of_one_launch_and_each_is_seen_under_its_own_load():
    gpu = Gpu()
    outcome = compete(two(gpu), EFFORT, gpu.instruments())
    assert outcome.samples == {"s/a": pytest.approx((0.001,) * 8), "s/b": pytest.approx((0.003,) * 8)}
    assert {series: len(seen) for series, seen in outcome.snapshots.items()} == {"s/a": 4, "s/b": 4}
    assert (outcome.fates, outcome.void, outcome.energy, outcome.others) == ({}, [], {}, 2)
    assert all(graph.released for graph in gpu.graphs)
    timed = "".join(gpu.order).split("|")[1::2]
    assert [part[0] for part in timed] == [*"ab", *"abba" * 4]  # one warm-up, eight cycles
    assert outcome.told("s/a")["repeated_rounds"] == 0
    assert outcome.told("s/a")["power"]["median"] == 500.0


def test_a_snapshot_is_taken_while_untimed_launches_run():
    gpu = Gpu()
    loads = []
    snapshot = gpu.snapshot
    gpu.snapshot = lambda: (loads.append(list(gpu.order)), snapshot())[1]
    compete(two(gpu), Effort(rounds=1, warmup=0, seconds=1.0), gpu.instruments())
    (before,) = loads
    untimed = before[len(before) - before[::-1].index("|") :]
    assert set(untimed) == {"a"}
    assert len(untimed) * 0.001 >= competition.BUSY


def test_a_throttled_round_is_repeated_for_all_and_counted():
    hot = ("hardware thermal slowdown",)
    gpu = Gpu(reasons=[(), hot, ("software power cap",), hot])
    outcome = compete(two(gpu), EFFORT, gpu.instruments())
    assert {series: len(samples) for series, samples in outcome.samples.items()} == {"s/a": 8, "s/b": 8}
    assert outcome.void == ["hardware thermal slowdown"] * 2
    told = outcome.told("s/b")
    assert (told["repeated_rounds"], told["void"], told["others"]) == (2, ["hardware thermal slowdown"], 2)
    assert sum(len(seen) for seen in outcome.snapshots.values()) == 10


def test_a_gpu_that_stays_throttled_gives_no_time():
    gpu = Gpu(reasons=[("hardware power brake",)] * 99)
    outcome = compete(two(gpu), EFFORT, gpu.instruments())
    assert outcome.samples == {}
    why = f"throttled in {MOST_VOID + 1} rounds, 0 are left: hardware power brake"
    assert outcome.fates == {"s/a": ("failed", why), "s/b": ("failed", why)}


def test_enough_good_rounds_before_it_throttles_are_kept():
    gpu = Gpu(reasons=[()] * 6 + [("hardware power brake",)] * 99)
    outcome = compete(two(gpu), EFFORT, gpu.instruments())
    assert len(outcome.samples["s/a"]) == 6 == EFFORT.fewest
    assert len(outcome.void) == MOST_VOID + 1


def test_the_missing_the_failed_and_the_uncapturable_leave_the_others_alone():
    gpu = Gpu()
    capture = gpu.capture

    def choosy(calls):
        if calls[0] is waits:
            raise Uncapturable("cannot be captured in a CUDA graph: RuntimeError: it waits")
        return capture(calls)

    waits = lambda: None
    gpu.capture = choosy
    contenders = {
        "s/a": Contender([gpu.call("a", 0.001)]),
        "s/b": Contender(missing="no deep_gemm package"),
        "s/c": Contender(failed="its error is 3 times what is allowed"),
        "s/d": Contender([waits]),
        "s/e": Contender([lambda: 1 / 0]),
    }
    outcome = compete(contenders, EFFORT, gpu.instruments())
    assert list(outcome.samples) == ["s/a"]
    assert outcome.fates == {
        "s/b": ("skipped", "no deep_gemm package"),
        "s/c": ("failed", "its error is 3 times what is allowed"),
        "s/d": ("failed", "cannot be captured in a CUDA graph: RuntimeError: it waits"),
        "s/e": ("failed", "ZeroDivisionError: division by zero"),
    }


def test_one_that_breaks_while_it_is_timed_has_failed():
    gpu = Gpu()
    calls = iter(range(30))

    def breaks():
        if next(calls) == 20:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    contenders = {**two(gpu), "s/c": Contender([breaks])}
    outcome = compete(contenders, EFFORT, gpu.instruments())
    assert set(outcome.samples) == {"s/a", "s/b"}
    assert outcome.fates == {"s/c": ("failed", "RuntimeError: CUDA error: an illegal memory access was encountered")}


def test_cold_launches_are_single_and_take_the_sets_in_turn():
    gpu = Gpu()
    contenders = {"s/a": Contender([gpu.call("x", 0.001), gpu.call("y", 0.002)])}
    outcome = compete(contenders, Effort(rounds=4, warmup=0, seconds=9.0), gpu.instruments(telemetry=False), cold=True)
    assert outcome.samples["s/a"] == pytest.approx((0.001, 0.002, 0.001, 0.002))
    assert gpu.graphs == []


def test_without_nvml_there_are_times_and_nothing_else():
    gpu = Gpu()
    outcome = compete(two(gpu), EFFORT, gpu.instruments(telemetry=False), energy=True)
    assert len(outcome.samples["s/a"]) == 8
    assert (outcome.energy, outcome.others, outcome.snapshots) == ({}, None, {"s/a": [], "s/b": []})


def test_energy_is_over_a_second_or_more():
    gpu = Gpu()
    outcome = compete(two(gpu), EFFORT, gpu.instruments(), energy=True)
    assert outcome.energy == {"s/a": pytest.approx(0.5), "s/b": pytest.approx(1.5)}
    gpu = Gpu()
    gpu.energy = lambda: None
    assert compete(two(gpu), EFFORT, gpu.instruments(), energy=True).energy == {}


def test_a_burst_that_ends_too_soon_gives_no_energy():
    gpu = Gpu()
    entry = gpu.capture([gpu.call("a", 0.001)])
    measured = (0.01,)  # slower when it was timed than now
    assert competition.energy_per_launch(entry, measured, gpu.instruments(), gpu) is None


def test_the_instruments_of_a_gpu_know_its_l2_and_do_without_nvml(monkeypatch):
    asked = []
    properties = SimpleNamespace(L2_cache_size=50 << 20, uuid="aa-bb")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    monkeypatch.setattr(competition.Telemetry, "open", lambda uuid: asked.append(uuid))
    monkeypatch.setattr(competition, "Cold", lambda nbytes: nbytes)
    tools = Instruments.of_gpu()
    assert tools.cold() == 150 << 20
    assert (tools.telemetry, asked) == (None, ["aa-bb"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_longer_kernel_takes_longer_hot_and_cold(monkeypatch):
    monkeypatch.setattr(competition, "watched", real)
    tensors = [torch.randn(1 << 24, device="cuda") for _ in range(4)]
    contenders = {
        "s/once": Contender([partial(torch.relu, t) for t in tensors]),
        "s/thrice": Contender([lambda t=t: torch.relu(torch.relu(torch.relu(t))) for t in tensors]),
        "s/waits": Contender([lambda: float(tensors[0][0])]),
    }
    for cold in (False, True):
        outcome = compete(contenders, Effort(rounds=10, warmup=2, seconds=5.0), Instruments.of_gpu(), cold=cold)
        assert 2 < median(outcome.samples["s/thrice"]) / median(outcome.samples["s/once"]) < 4
        assert ("s/waits" in outcome.fates) is not cold


def test_a_contender_has_calls_or_one_reason():
    with pytest.raises(ValueError, match="a contender has calls"):
        Contender()
    with pytest.raises(ValueError, match="a contender has calls"):
        Contender([print], missing="no")
    assert Contender([print]).fate is None
