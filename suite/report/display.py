"""Numbers as they are shown: whole ones in full with separators, others to a few significant digits.

Only for showing. Every record and frame keeps its SI value unrounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from v3bench.suite.ledger.data import table

MISSING = "\u2013"  # an empty cell is a dash, so that it does not read as forgotten
TIMES, MINUS = "\u00d7", "\u2212"
SUPERSCRIPT = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")

TITLES = {
    "model": "The model", "kv_cache": "KV cache", "flops": "Training cost in GFLOPs per token", "fp8": "FP8 training",
    "mtp": "Multi-token prediction", "tpot": "Time per output token", "kernels": "Kernels and libraries",
    "kv_variants": "KV cache variants", "deployment": "Deployment and serving", "fabric": "Interconnect and topology",
    "expert_parallel": "Expert parallelism",
}  # fmt: skip


def number(value: Any, digits: int = 4, *, zeros: bool = False) -> str:
    """70272 -> '70,272'; 0.0147571 -> '0.01476'; 3.2e-9 -> '3.2 x 10^-9' in Unicode; None -> a dash.

    zeros: keep those at the end, as a measured value wants: 50.3 -> '50.30'.
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and math.isnan(value):
        return MISSING
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}".replace("-", MINUS)
    if not 1e-4 <= abs(value) < 1e12:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".").replace("-", MINUS)
        return f"{mantissa} {TIMES} 10{str(int(exponent)).translate(SUPERSCRIPT)}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text and not zeros else text).replace("-", MINUS)


def fixed(value: float, places: int = 2) -> str:
    """A number for a column: the same decimals in every row, but never fewer than three digits of a small one."""
    if value and abs(value) < 10 ** (1 - places):
        return number(value, 3)
    return f"{value:,.{places}f}".replace("-", MINUS)


def three(value: float) -> str:
    """Three digits, zeros at the end too: 0.0003 -> '0.000300'."""
    return number(value, 3, zeros=True)


def amount(value: float, unit: str, digits: int = 6, *, zeros: bool = False) -> str:
    """A value with its unit: '70,272 B', '43.73%', '7.344 x'."""
    return with_unit(number(value, digits, zeros=zeros), unit)


def with_unit(shown: str, unit: str) -> str:
    """A shown number with its unit behind. A long unit may go to the next line, a short one not."""
    unit = unit.removesuffix(" params")  # the statement says of what
    if unit in ("", "1", "params"):
        return shown
    if unit == "%":
        return f"{shown}%"
    space = " " if len(unit) > 3 else "\u00a0"
    return f"{shown}{space}{TIMES if unit == 'x' else unit}"


def metric_unit(metric: str) -> tuple[str, float]:
    """(unit shown, factor from SI) of a metric in metrics.toml; one that is not there is shown as stored."""
    row = table("metrics").get(metric)
    return (row["show"], row["factor"]) if row else ("", 1.0)


def plain(value: Any) -> str:
    """Text of any JSON value, for a cell."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool | int | float):
        return number(value, 6)
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value)
    return str(value)


def joined(parts: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
