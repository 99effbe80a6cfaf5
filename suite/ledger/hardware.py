"""What each part can do at most: every number with its unit, source and status; unknown is absent, never guessed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.data import HERE, choose, located, read_toml, record
from v3bench.suite.ledger.sources import Status
from v3bench.suite.ledger.units import same_kind, to_si


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One number of one part."""

    value: float
    unit: str
    source: str
    status: Status = "confirmed"

    @property
    def si(self) -> float:
        """The value in SI: B, B/s, FLOP/s, s."""
        whole = int(self.value) if self.value.is_integer() else self.value
        return to_si(whole, self.unit)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A GPU, a link or a host, dense figures only."""

    name: str
    title: str
    match: str  # equal to torch.cuda.get_device_name(), never a substring; empty: not matched
    note: str
    specs: dict[str, Spec]


KINDS = {
    "memory": "B",
    "bandwidth": "B/s",
    "bandwidth_reached": "B/s",
    "l2_reached": "B/s",
    "launch": "s",
    "bf16": "FLOP/s",
    "bf16_reached": "FLOP/s",
    "bf16_throttled": "FLOP/s",
    "fp8": "FLOP/s",
    "fp8_reached": "FLOP/s",
    "fp8_fp16acc": "FLOP/s",
    "fp64": "FLOP/s",
    "int8": "FLOP/s",
    "clock": "Hz",
    "sms": "1",
    "flop_per_clock": "FLOP",
    "nvlink_total": "B/s",
    "nvlink": "B/s",
    "nvlink_achievable": "B/s",
    "nic": "B/s",
    "nic_effective": "B/s",
    "gpus": "1",
    "rack_nvlink": "B/s",
}


@cache
def load(path: Path = HERE / "hardware.toml") -> dict[str, Part]:
    """Every part by name. Raises BadInput naming file, part and key."""
    parts = {}
    for name, raw in read_toml(path).items():
        where = f"{path.name}: {name}"
        specs = {key: record(Spec, raw[key], f"{where}.{key}") for key in raw if key not in ("title", "match", "note")}
        for key, spec in specs.items():
            choose(key, KINDS, "key", where)
            with located(f"{where}.{key}"):
                if not same_kind(spec.unit, KINDS[key]):
                    raise BadInput(f"unit {spec.unit!r}", right=f"a unit like {KINDS[key]}")
                if not 0 < spec.value < math.inf:
                    raise BadInput(f"value {spec.value}", right="a positive number")
        if "title" not in raw:
            raise BadInput("lacks 'title'", where=where)
        words = {key: str(raw.get(key, "")) for key in ("title", "match", "note")}
        parts[name] = Part(name=name, specs=specs, **words)
    matches = [part.match for part in parts.values() if part.match]
    if twice := {match for match in matches if matches.count(match) > 1}:
        raise BadInput(f"two parts match {twice.pop()!r}", where=path.name)
    return parts


def spec(reference: str) -> Spec:
    """``"h800-sxm.bf16"`` as its number. Raises BadInput naming what exists."""
    part, _, key = reference.partition(".")
    choose(part, load(), "hardware", reference)
    choose(key, load()[part].specs, "hardware value", reference)
    return load()[part].specs[key]


def peak(device_name: str, key: str) -> float | None:
    """A device's figure in SI by its exact name, None when it is not known: ``peak("NVIDIA H200", "bf16")``."""
    for part in load().values():
        if part.match and part.match == device_name and key in part.specs:
            return part.specs[key].si
    return None
