"""Units as they are printed, each a factor to SI and a dimension, so that a wrong unit cannot pass unseen."""

from __future__ import annotations

import re
from functools import cache

from v3bench.model_ref.errors import BadInput

Dimension = tuple[float, ...]  # powers of byte, second, floating-point operation, dollar, joule, degree Celsius
NONE: Dimension = (0.0,) * 6
BYTE, SECOND, FLOP, DOLLAR, JOULE, DEGREE = (tuple(float(i == j) for j in range(6)) for i in range(6))
PER_SECOND = tuple(0.0 - power for power in SECOND)
WATT = tuple(joule - second for joule, second in zip(JOULE, SECOND, strict=True))

ATOMS: dict[str, tuple[float, Dimension]] = {
    "1": (1, NONE), "x": (1, NONE), "%": (0.01, NONE),
    "thousand": (1000, NONE), "million": (10**6, NONE), "billion": (10**9, NONE), "trillion": (10**12, NONE),
    "tok": (1, NONE), "params": (1, NONE), "seq": (1, NONE), "GPU": (1, NONE), "node": (1, NONE), "bit": (1, NONE),
    "B": (1, BYTE), "b": (0.125, BYTE), "KiB": (1024, BYTE), "MiB": (1024**2, BYTE), "GiB": (1024**3, BYTE),
    "s": (1, SECOND), "ms": (1e-3, SECOND), "us": (1e-6, SECOND), "ns": (1e-9, SECOND),
    "min": (60, SECOND), "h": (3600, SECOND), "day": (86400, SECOND), "GPU-h": (3600, SECOND),
    "Hz": (1, PER_SECOND), "MHz": (10**6, PER_SECOND), "GHz": (10**9, PER_SECOND),
    "FLOP": (1, FLOP), "$": (1, DOLLAR), "J": (1, JOULE), "W": (1, WATT),
    "degC": (1, DEGREE),
}  # fmt: skip
PREFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}


@cache
def unit(text: str) -> tuple[float, Dimension]:
    """(factor to SI, dimension) of a unit such as ``GB/s``, ``billion tok/day`` or ``$/GPU-h``. Raises BadInput."""
    factor: float = 1
    dimension = NONE
    for position, part in enumerate(text.split("/")):
        for name in part.split() or [""]:
            scale, powers = atom(name, text)
            sign = -1 if position else 1
            factor = factor / scale if position else factor * scale
            dimension = tuple(a + sign * b for a, b in zip(dimension, powers, strict=True))
    whole = float(factor)
    return (int(whole) if whole.is_integer() else whole), dimension


def atom(name: str, text: str) -> tuple[float, Dimension]:
    if name in ATOMS:
        return ATOMS[name]
    match = re.fullmatch(r"([kMGTP])(B|b|FLOP)", name)
    if match is None:
        right = "such as B, GB/s, us, TFLOP/s, tok/s, billion params, $/GPU-h"
        raise BadInput(f"unit {text!r} is not understood ({name!r})", right=right)
    scale, powers = ATOMS[match[2]]
    return scale * PREFIXES[match[1]], powers


def same_kind(left: str, right: str) -> bool:
    """Whether two units measure the same thing."""
    return unit(left)[1] == unit(right)[1]


def to_si(value: float, text: str) -> float:
    """A value printed in a unit, in SI; integers stay integers."""
    return value * unit(text)[0]


def from_si(value: float, text: str) -> float:
    """An SI value in a unit; integers stay integers where they can."""
    factor = unit(text)[0]
    if isinstance(value, int) and isinstance(factor, int):
        return value // factor if value % factor == 0 else value / factor
    return value / factor if factor >= 1 else value * round(1 / factor)


def show(value: float, text: str = "") -> str:
    """A value for people: whole numbers whole, others to six digits, the unit behind."""
    plain = str(value) if isinstance(value, int) and abs(value) < 10**16 else f"{value:.6g}"
    return plain if text in ("", "1") else f"{plain}%" if text == "%" else f"{plain} {text}"
