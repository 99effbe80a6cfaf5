"""The one record of the suite: what was measured or counted, of what, how, on what, and how it went.

Values are SI and unrounded; unit, direction and display come from metrics.toml. No torch here.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from v3bench.model_ref.errors import BadInput

AREAS = (
    "model", "kv_cache", "flops", "fp8", "mtp", "tpot", "kernels", "kv_variants",
    "deployment", "fabric", "expert_parallel",
)  # fmt: skip

Basis = Literal["published", "formula", "counted", "measured", "modelled"]
Scale = Literal["full", "slice", "proxy"]
Clock = Literal["device-hot", "device-cold", "host", "none"]
Status = Literal["ok", "skipped", "failed"]
CHOICES = {
    "area": AREAS,
    "basis": get_args(Basis),
    "scale": get_args(Scale),
    "clock": get_args(Clock),
    "status": get_args(Status),
}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One metric of one subject in one case: samples when it worked, a reason when it did not."""

    area: str  # one of AREAS
    subject: str  # a preset, or "kernels.<op>"
    impl: str  # Ops.name, "transformers", "formula", ...
    case: str  # a name in cases.toml
    case_version: int  # raised when the case's meaning changes
    metric: str  # a name in metrics.toml: unit and direction
    basis: Basis
    scale: Scale
    convention: str = ""  # where the number depends on one: "causal", "bf16", ...
    precision: str = ""  # arithmetic: "float32", "bfloat16", ...
    device: str = ""  # torch's device type: "cpu", "cuda"
    clock: Clock = "none"
    launch: str = ""  # id of the process that measured it
    samples: tuple[float, ...] = ()
    status: Status = "ok"
    why: str = ""  # reason of a skip or failure

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise BadInput(
                    f"{name} is {getattr(self, name)!r}", where="measurement", right=f"one of {', '.join(allowed)}"
                )
        if (self.status == "ok") != bool(self.samples):
            raise BadInput(
                "samples are present if and only if status is ok", where=f"measurement {self.case}/{self.metric}"
            )
        if (self.status != "ok") != bool(self.why):
            raise BadInput(
                "a reason is given if and only if status is not ok", where=f"measurement {self.case}/{self.metric}"
            )
        if not finite(self.samples):
            raise BadInput("a sample is not a finite number", where=f"measurement {self.case}/{self.metric}")

    def line(self) -> str:
        """The record as one line of measurements.jsonl."""
        return json.dumps(asdict(self), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, raw: Any, where: str) -> Self:
        """A record read back. Raises BadInput on a missing, surplus or ill-typed field."""
        if not isinstance(raw, dict):
            raise BadInput("is no JSON object", where=where)
        names = NAMES
        if raw.keys() != names:
            odd = sorted(raw.keys() ^ names)
            raise BadInput(f"field {odd[0]!r} is {'missing' if odd[0] in names else 'unknown'}", where=where)
        if set(map(type, map(raw.__getitem__, TEXTS))) != {str}:
            name = next(name for name in TEXTS if not isinstance(raw[name], str))
            raise BadInput(f"{name} is {raw[name]!r}", where=where, right="text")
        version = raw["case_version"]
        if not isinstance(raw["samples"], list) or isinstance(version, bool) or not isinstance(version, int):
            raise BadInput("samples or case_version has the wrong type", where=where)
        return cls(**{**raw, "samples": tuple(raw["samples"])})


# Worked out once: a report reads a hundred thousand records.
NAMES = frozenset(f.name for f in fields(Measurement))
TEXTS = tuple(sorted(NAMES - {"samples", "case_version"}))


def finite(samples: tuple[Any, ...]) -> bool:
    """Whether all are numbers, and none infinite or NaN; true and false are no numbers here."""
    kinds = set(map(type, samples))
    if not all(issubclass(kind, int | float) and kind is not bool for kind in kinds):
        return False
    try:
        return all(map(math.isfinite, samples))
    except OverflowError:  # an integer beyond every float
        return False
