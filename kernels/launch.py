"""A kernel launch as a value: the kernel, its grid, its arguments, its configuration.

The same value runs on a GPU, runs under Triton's interpreter, and can be compiled for a GPU that is not there (aot.py).
Every operation's file has ``launches(..., config)``, which makes such values from tensors, on the meta device too.

    Config       what a launch table's row decides: constexprs of the kernel, num_warps, num_stages
    Launch       one launch; ``run`` starts several in order
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, int | bool]
OPTIONS = ("num_warps", "num_stages", "maxnreg")


@dataclass(frozen=True)
class Launch:
    """``kernel[grid](**args)`` with the compiler's ``options`` (num_warps, num_stages, ...)."""

    kernel: Any  # a function under @triton.jit
    grid: tuple[int, ...]
    args: Mapping[str, Any]  # by parameter name: tensors, descriptors, numbers and constexprs
    options: Mapping[str, Any] = field(default_factory=dict)
    l2_bytes: int = 0  # what its programs together ask the L2 for, where tiles are read again and again

    def __call__(self) -> None:
        """Start it on the current stream."""
        self.kernel[self.grid](**self.args, **self.options)

    @property
    def programs(self) -> int:
        """Programs in the grid: CTAs on a GPU."""
        count = 1
        for n in self.grid:
            count *= n
        return count


def run(launches: Iterable[Launch]) -> None:
    """Start the launches one after another; an empty grid starts nothing."""
    for launch in launches:
        if launch.programs:
            launch()


def split(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config as (constexprs, the compiler's options)."""
    options = {name: config[name] for name in OPTIONS if name in config}
    return {name: value for name, value in config.items() if name not in options}, options


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
