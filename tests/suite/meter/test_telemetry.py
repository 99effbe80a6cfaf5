"""Telemetry: bits in words, which of them void a round, counters between snapshots, and no error without NVML."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from v3bench.suite.meter import telemetry
from v3bench.suite.meter.telemetry import Snapshot, Telemetry, decode, readings, told


class NVMLError(Exception):
    """What a call raises that this GPU or driver does not support."""


class FakeNvml:
    """An NVML whose readings the test sets; a name in ``broken`` raises."""

    def __init__(self, bits=0, held=(0, 0, 0), broken=()):
        self.bits, self.held, self.broken = bits, list(held), set(broken)
        self.joules, self.processes, self.asked = 5000.0, [object()], []

    def __getattr__(self, name):
        def call(*arguments):
            self.asked.append((name, *arguments))
            if name in self.broken:
                raise NVMLError(name)
            return self.answer(name, *arguments)

        return call

    def answer(self, name, *arguments):
        match name:
            case "nvmlInit":
                return None
            case "nvmlDeviceGetHandleByUUID":
                return f"handle of {arguments[0]}"
            case "nvmlDeviceGetClockInfo":
                return {1: 1980, 2: 3201}[arguments[1]]
            case "nvmlDeviceGetCurrentClocksEventReasons" | "nvmlDeviceGetCurrentClocksThrottleReasons":
                return self.bits
            case "nvmlDeviceGetFieldValues":
                found = {186: (1, "uiVal", 654_000)} | dict(
                    zip((269, 270, 271), ((3, "ullVal", n) for n in self.held), strict=True)
                )
                return [
                    SimpleNamespace(
                        nvmlReturn=3 if f"field {field}" in self.broken else 0,
                        valueType=found[field][0], value=SimpleNamespace(**{found[field][1]: found[field][2]}),
                    )
                    for field in arguments[1]
                ]  # fmt: skip
            case "nvmlDeviceGetPowerUsage":
                return 500_000
            case "nvmlDeviceGetTemperature":
                return 61
            case "nvmlDeviceGetTotalEnergyConsumption":
                return self.joules * 1e3
            case "nvmlDeviceGetComputeRunningProcesses":
                return self.processes
        raise AssertionError(name)


def opened(**kinds):
    nvml = FakeNvml(**kinds)
    return nvml, Telemetry.open("1234-5678", nvml)


@pytest.mark.parametrize(
    "bits, words, void",
    [
        (0x0, (), ""),
        (0x1, ("idle",), ""),
        (0x4, ("software power cap",), ""),  # how a Hopper GPU runs long matrix products
        (0x8, ("hardware slowdown",), "hardware slowdown"),
        (0x20, ("software thermal slowdown",), "software thermal slowdown"),
        (0x48, ("hardware slowdown", "hardware thermal slowdown"), "hardware slowdown, hardware thermal slowdown"),
        (0x84, ("software power cap", "hardware power brake"), "hardware power brake"),
        (0x116, ("application clocks", "software power cap", "sync boost", "display clock"), ""),
        (0x1000, ("reason 0x1000",), ""),
    ],
)
def test_reasons_in_words_and_which_void_a_round(bits, words, void):
    assert decode(bits) == words
    assert Snapshot(reasons=decode(bits)).void == void


def test_the_bits_are_nvmls():
    pynvml = pytest.importorskip("pynvml")
    named = {
        "idle": pynvml.nvmlClocksEventReasonGpuIdle,
        "software power cap": pynvml.nvmlClocksEventReasonSwPowerCap,
        "hardware slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
        "software thermal slowdown": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
        "hardware thermal slowdown": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
        "hardware power brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    }
    assert {word: bit for bit, word in telemetry.REASONS.items() if word in named} == named
    assert pynvml.NVML_FI_DEV_POWER_INSTANT == telemetry.POWER_INSTANT
    assert (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM) == (telemetry.SM, telemetry.MEMORY)
    assert set(telemetry.VOID) <= set(telemetry.REASONS.values())
    kinds = {pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal", pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal"}
    assert kinds.items() <= telemetry.VALUES.items()


def test_a_snapshot_is_in_si():
    nvml, gpu = opened(bits=0x4)
    assert gpu.snapshot() == Snapshot(1.98e9, 3.201e9, 654.0, 61.0, ("software power cap",))
    assert gpu.energy() == 5000.0
    assert ("nvmlDeviceGetHandleByUUID", "GPU-1234-5678") in nvml.asked


def test_a_throttling_between_two_snapshots_is_not_lost():
    nvml, gpu = opened(held=(7, 0, 0))
    assert gpu.snapshot().reasons == ()  # what had been before it was opened does not count
    nvml.held[1] += 100
    assert gpu.snapshot().void == "hardware thermal slowdown"
    assert gpu.snapshot().void == ""


@pytest.mark.parametrize(
    "broken, changed",
    [
        ({"nvmlDeviceGetTemperature"}, {"temperature": None}),
        ({"nvmlDeviceGetClockInfo"}, {"sm_clock": None, "memory_clock": None}),
        ({"nvmlDeviceGetFieldValues"}, {"power": 500.0}),  # the mean of a second, for want of the instant
        ({"field 186"}, {"power": 500.0}),
        ({"field 186", "nvmlDeviceGetPowerUsage"}, {"power": None}),
        ({"nvmlDeviceGetCurrentClocksEventReasons"}, {}),  # the older name is asked
        ({"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"}, {"reasons": ()}),
    ],
)
def test_what_a_driver_does_not_tell_is_none_and_the_rest_is_there(broken, changed):
    _, gpu = opened(bits=0x4, broken=broken)
    whole = {
        "sm_clock": 1.98e9, "memory_clock": 3.201e9, "power": 654.0, "temperature": 61.0,
        "reasons": ("software power cap",),
    }  # fmt: skip
    assert gpu.snapshot() == Snapshot(**{**whole, **changed})


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_a_failing_nvml_is_no_telemetry(broken):
    assert opened(broken={broken})[1] is None


def test_a_missing_package_is_no_telemetry(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError
    assert Telemetry.open("1234") is None


def test_a_machine_without_a_driver_is_no_telemetry(monkeypatch):
    pynvml = pytest.importorskip("pynvml")
    monkeypatch.setattr(pynvml, "nvmlInit", FakeNvml(broken={"nvmlInit"}).nvmlInit)
    assert Telemetry.open("1234") is None


@pytest.mark.parametrize("processes, others", [(0, 0), (1, 0), (3, 2)])
def test_neighbours_are_all_but_one(processes, others):
    nvml, gpu = opened()
    nvml.processes = [object()] * processes
    assert gpu.others() == others
    nvml.broken.add("nvmlDeviceGetComputeRunningProcesses")
    assert gpu.others() is None


def test_the_table_of_a_benchmark():
    seen = [
        Snapshot(1e9, 3e9, 100.0, None, ("software power cap",)),
        Snapshot(2e9, 3e9, 300.0, None, ("idle", "software power cap")),
        Snapshot(1.5e9, 3e9, None, None),
    ]
    table = told(seen)
    assert table == {
        "snapshots": 3,
        "sm_clock": {"median": 1.5e9, "least": 1e9, "most": 2e9},
        "memory_clock": {"median": 3e9, "least": 3e9, "most": 3e9},
        "power": {"median": 200.0, "least": 100.0, "most": 300.0},
        "reasons": {"idle": 1, "software power cap": 2},
    }
    assert readings(seen, "power") == (100.0, 300.0)
    assert told([]) == {"snapshots": 0, "reasons": {}}
