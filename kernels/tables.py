"""Launch tables: which configuration an operation is launched with, as data chosen by shape.

``tables/<op>.json`` has rows, each a device ("sm_90", or a GPU by its exact name where it was tuned there), a shape, a
configuration and where it comes from. For a shape the nearest row counts, by the sum of |log2| of the ratios of all
dimensions, among the rows of the GPU's own name where there are any, else among "sm_90"'s. So a table answers every
shape, and always the same way. The tuning command (v3bench tune) writes the tables; nobody edits them by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from v3bench.kernels.launch import Config

FOLDER = Path(__file__).parent / "tables"
HOPPER = "sm_90"


@dataclass(frozen=True)
class Row:
    """One row of a table; ``predicted`` holds what the compiler and the roofline say of it."""

    device: str
    shape: Mapping[str, int]
    config: Config
    basis: str  # "modelled": chosen by prediction; "measured": tuned on the device named
    source: str  # the run or command it comes from
    predicted: Mapping[str, Any]


@cache
def rows(op: str) -> tuple[Row, ...]:
    """All rows of an operation's table. Raises FileNotFoundError where it has none."""
    raw = json.loads((FOLDER / f"{op}.json").read_text(encoding="utf-8"))
    return tuple(Row(**row) for row in raw["rows"])


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
