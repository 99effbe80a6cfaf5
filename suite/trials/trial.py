"""A trial: everything needed to check and time one kernel operation, whoever wrote the kernel.

    Trial       inputs, our launcher, the float64 oracle, the bar, the rivals, small shapes for the interpreter
    Rival       another implementation of the same operation
    Missing     raised by a rival that cannot run here, with the reason
    package     an optional package that a rival comes from, or Missing

A function of one's own is called as the trial's ``calling`` says: with the inputs by name. It returns what ours does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

Shape = Mapping[str, int]
Inputs = dict[str, Any]


class Missing(Exception):
    """Why a rival cannot run: a package, a device or a feature that is not there."""


def package(name: str) -> Any:
    """An optional package, or a module of one. Raises Missing."""
    try:
        return import_module(name)
    except Exception as error:  # such packages also fail while they load their libraries
        raise Missing(f"{name} cannot be imported: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Rival:
    """``build(inputs)`` prepares what is not timed (layouts, weights) and returns the callable that is.

    ``error`` is the bar it is held to, as Trial.error; None where its numerics differ by design, which ``note`` says.
    """

    build: Callable[[Inputs], Callable[[], Any]]
    note: str = ""
    error: Callable[[Any, Any, Inputs], float] | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One operation; inputs and outputs as its kernel's file defines them."""

    op: str  # a key of laws/work.py; the subject is "kernels.<op>"
    calling: str  # how a function of one's own is called: arguments with shapes and dtypes, and what it returns
    inputs: Callable[[Shape, str], Inputs]  # (shape, device): random normal data, from torch's generator
    ours: Callable[..., Any]  # launcher: ours(**inputs); takes config= besides
    oracle: Callable[..., Any]  # oracle(**inputs): the same result in float64, from the same quantised operands
    error: Callable[[Any, Any, Inputs], float]  # (got, want, inputs): worst error over what is allowed; <= 1 passes
    rivals: Mapping[str, Rival] = field(default_factory=dict)
    small: tuple[Shape, ...] = ()  # small and odd shapes, for the interpreter
    small_config: Mapping[str, Any] | None = None  # blocks that fit them
    precision: str = "bfloat16"
