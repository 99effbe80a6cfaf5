"""Launch tables: which configuration an operation is launched with, as data chosen by shape.

``tables/<op>.json`` has rows, each a device ("sm_90", or a GPU by its exact name where it was tuned there), a shape, a
configuration, where it comes from, and the Triton it was compiled with: another one makes other code of it. For a shape
the nearest row counts, by the sum of |log2| of the ratios of all dimensions, among the rows of the GPU's own name where
there are any, else among "sm_90"'s. So a table answers every shape, and always the same way. The tuning command
(v3bench tune) writes the tables; nobody edits them by hand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from v3bench.kernels.launch import Config

FOLDER = Path(__file__).parent / "tables"
HOPPER = "sm_90"
VERSION = re.compile(r"\d+\.\d+\.\d+\S*")


@dataclass(frozen=True)
class Row:
    """One row of a table; ``predicted`` holds what the compiler and the roofline say of it."""

    device: str
    shape: Mapping[str, int]
    config: Config
    basis: str  # "modelled": chosen by prediction; "measured": tuned on the device named
    source: str  # the run or command it comes from
    triton: str  # the version it was compiled with
    predicted: Mapping[str, Any]


@cache
def rows(op: str) -> tuple[Row, ...]:
    """All rows of an operation's table. Raises FileNotFoundError where it has none, ValueError for one that is none."""
    try:
        return read(FOLDER / f"{op}.json")
    except ValueError as error:
        raise ValueError(f"{op}.json: {error}; v3bench tune {op} makes it anew") from error


def read(path: Path) -> tuple[Row, ...]:
    """The rows of a table's file. Raises OSError, and ValueError where they are not as ``v3bench tune`` writes them."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(whole, dict) or not isinstance(whole.get("rows"), list):
        raise ValueError("has no rows")
    return tuple(checked(raw, n) for n, raw in enumerate(whole["rows"], 1))


def checked(raw: Any, n: int) -> Row:
    """The ``n``-th row as it stands in a file. Raises ValueError."""
    names, has = [field.name for field in fields(Row)], raw if isinstance(raw, dict) else {}
    if lacking := [name for name in names if name not in has]:
        raise ValueError(f"row {n} lacks {', '.join(lacking)}")
    if unknown := [name for name in has if name not in names]:
        raise ValueError(f"row {n} has {', '.join(unknown)}, which no row has")
    for name in names:
        if not isinstance(has[name], dict if name in ("shape", "config", "predicted") else str):
            raise ValueError(f"row {n} has {has[name]!r} as {name}")
    if not VERSION.fullmatch(has["triton"]):
        raise ValueError(f"row {n} has {has['triton']!r} as triton, which is no version")
    return Row(**has)


@cache
def name_of(device: torch.device) -> str:
    """The GPU's exact name; Hopper's for the CPU (interpreter) and "meta" (ahead-of-time compilation)."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else HOPPER


def choose(op: str, device: torch.device, **shape: int) -> Config:
    """The configuration for a shape on a device."""
    return nearest(op, name_of(device), tuple(shape.items())).config


@cache
def nearest(op: str, device: str, shape: tuple[tuple[str, int], ...]) -> Row:
    """The row that counts for this shape; the earlier one of two equally near."""
    own = [row for row in rows(op) if row.device == device] or [row for row in rows(op) if row.device == HOPPER]
    return min(own, key=lambda row: distance(row.shape, dict(shape)))


def distance(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    """How many doublings lie between two shapes, over all dimensions; raises ValueError for other dimensions."""
    if a.keys() != b.keys():
        raise ValueError(f"a table for {', '.join(a)} was asked for {', '.join(b)}")
    return sum(abs(math.log2(max(a[name], 1) / max(b[name], 1))) for name in a)
