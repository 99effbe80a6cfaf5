"""What NVML tells of the GPU while it is measured: clocks and why they are held down, power, temperature, neighbours.

    Telemetry.open    the GPU torch measures on; None where NVML is absent or fails
    snapshot          clocks, power, temperature and reasons at one instant; about a millisecond
    energy, others    joules drawn so far; other processes that compute on this GPU
    VOID              the reasons that make a round void
    told              the snapshots of a series in one table, for a benchmark's extra_info

Read by the thread that measures, between rounds, while untimed launches keep the GPU at work: a thread beside it would
hold Python's lock or the driver's just when a round is enqueued, and an idle GPU shows another clock. What lies between
two snapshots is not lost: counters say how long each bad reason held since the last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import Any, Self

# nvmlClocksEventReasons (before 2023: ThrottleReasons), bit by bit, as nvml.h has them.
REASONS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: "display clock",
    0x200: "board limit",
    0x400: "reliability",
}
# These go by when the GPU has rested, so a round under them is repeated. The software power cap is none of them: it is
# how a Hopper GPU runs long matrix products, a repeated round would be under it again, and to keep only the rounds
# before it would be to choose the fast ones. It falls on all contenders alike, who take turns, and is told.
VOID = frozenset(
    {"hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "hardware power brake"}
)
# Fields of nvmlDeviceGetFieldValues: power now, in mW, and how long each reason has held so far.
POWER_INSTANT = 186
HELD = {269: "software thermal slowdown", 270: "hardware thermal slowdown", 271: "hardware power brake"}
VALUES = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}  # nvmlValueType
SM, MEMORY, GPU = 1, 2, 0  # NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU


@dataclass(frozen=True)
class Snapshot:
    """One instant; None where this GPU or driver does not tell. ``reasons``: now, or at any time since the last one."""

    sm_clock: float | None = None  # Hz
    memory_clock: float | None = None  # Hz
    power: float | None = None  # W, the whole board's
    temperature: float | None = None  # degC
    reasons: tuple[str, ...] = ()

    @property
    def void(self) -> str:
        """The reasons that make the round void, in words, or ""."""
        return ", ".join(reason for reason in self.reasons if reason in VOID)


def decode(bits: int) -> tuple[str, ...]:
    """The reasons of a bit mask in words; a bit that is not known here by its number."""
    known = tuple(word for bit, word in REASONS.items() if bits & bit)
    rest = bits & ~sum(REASONS)
    return known + ((f"reason {rest:#x}",) if rest else ())


class Telemetry:
    """One GPU as NVML sees it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle
        self.held: dict[str, int] = {}  # as the counters stood at the last snapshot
        self.snapshot()

    @classmethod
    def open(cls, uuid: str, nvml: Any = None) -> Self | None:
        """The GPU of torch's ``uuid``, or None: no package, no driver, no permission, a slice of a GPU."""
        try:
            nvml = nvml or import_module("pynvml")
            nvml.nvmlInit()
            return cls(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"))
        except Exception:  # NVML's own, or an ImportError, or whatever a half-installed driver raises
            return None

    def ask(self, function: str, *arguments: Any) -> Any:
        """What NVML answers, or None where it does not."""
        try:
            return getattr(self.nvml, function)(self.handle, *arguments)
        except Exception:
            return None

    def snapshot(self) -> Snapshot:
        """Clocks first, as they change the fastest."""
        sm_clock, memory_clock = (self.ask("nvmlDeviceGetClockInfo", which) for which in (SM, MEMORY))
        bits = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # a driver that knows the older name only
            bits = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        fields = self.fields(POWER_INSTANT, *HELD)
        milliwatts = fields.get(POWER_INSTANT)
        if milliwatts is None:  # the mean of the last second
            milliwatts = self.ask("nvmlDeviceGetPowerUsage")
        temperature = self.ask("nvmlDeviceGetTemperature", GPU)
        held = {word: fields[field] for field, word in HELD.items() if field in fields}
        since = [word for word, count in held.items() if count > self.held.get(word, count)]
        self.held = held
        return Snapshot(
            sm_clock=scaled(sm_clock, 1e6),
            memory_clock=scaled(memory_clock, 1e6),
            power=scaled(milliwatts, 1e-3),
            temperature=scaled(temperature, 1.0),
            reasons=tuple(dict.fromkeys([*decode(bits or 0), *since])),
        )

    def fields(self, *wanted: int) -> dict[int, int]:
        """The fields of these that NVML has."""
        answers = self.ask("nvmlDeviceGetFieldValues", list(wanted)) or ()
        return {
            field: int(getattr(answer.value, VALUES[answer.valueType]))
            for field, answer in zip(wanted, answers, strict=False)
            if answer.nvmlReturn == 0 and answer.valueType in VALUES
        }

    def energy(self) -> float | None:
        """Joules the board has drawn since the driver was loaded; the counter moves some ten times a second."""
        return scaled(self.ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def others(self) -> int | None:
        """Processes besides this one that compute on the GPU. A container shows other ids, so one of them is us."""
        running = self.ask("nvmlDeviceGetComputeRunningProcesses")
        return None if running is None else max(0, len(running) - 1)


def scaled(value: Any, factor: float) -> float | None:
    """A reading in SI, or None for none."""
    return None if value is None else float(value) * factor


def told(snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """Median, least and most of each reading, and how many of the snapshots show each reason; JSON."""
    table: dict[str, Any] = {"snapshots": len(snapshots)}
    for name in ("sm_clock", "memory_clock", "power", "temperature"):
        if values := readings(snapshots, name):
            table[name] = {"median": median(values), "least": min(values), "most": max(values)}
    table["reasons"] = dict(sorted(Counter(reason for s in snapshots for reason in s.reasons).items()))
    return table


def readings(snapshots: Sequence[Snapshot], name: str) -> tuple[float, ...]:
    """One reading of every snapshot that has it."""
    values = (getattr(snapshot, name) for snapshot in snapshots)
    return tuple(value for value in values if value is not None)
