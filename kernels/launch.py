"""A kernel launch as a value: the kernel, its grid, its arguments, its configuration.

The same value runs on a GPU, runs under Triton's interpreter, and can be compiled for a GPU that is not there (aot.py).
Every operation's file has ``launches(..., config)``, which makes such values from tensors, on the meta device too.

    Config       what a launch table's row decides: constexprs of the kernel, num_warps, num_stages
    Launch       one launch; ``run`` starts several in order
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from v3bench.kernels.keys import settle

Config = Mapping[str, int | bool]
OPTIONS = ("num_warps", "num_stages", "maxnreg")
HOPPER_SMS = 132  # of an H100, H200 or H800 with SXM: what is compiled ahead of time is made for
INTERPRETED_SMS = 3  # enough for programs with several tiles, and with none
MOST_PROGRAMS = (2**31 - 1, 65535, 65535)  # along a grid's three axes, as CUDA has it


@dataclass(frozen=True)
class Launch:
    """``kernel[grid](**args)`` with the compiler's ``options`` (num_warps, num_stages, ...)."""

    kernel: Any  # a function under @triton.jit
    grid: tuple[int, ...]
    args: Mapping[str, Any]  # by parameter name: tensors, descriptors, numbers and constexprs
    options: Mapping[str, Any] = field(default_factory=dict)
    l2_bytes: int = 0  # what its programs together ask the L2 for, where tiles are read again and again
    passes: int = 0  # of a program through its loop, where padding hides it; 0: follows from the operation's work

    def __call__(self) -> None:
        """Start it on the current stream of its tensors' GPU.

        Raises ValueError where the grid is too large, or the GPU has less shared memory than a program takes.
        """
        if any(n > most for n, most in zip(self.grid, MOST_PROGRAMS, strict=False)):
            raise ValueError(f"{self.name}: its tensors make a grid of {self.grid} programs, more than {MOST_PROGRAMS}")
        settle(self.kernel)
        there = next((x.device for x in self.args.values() if getattr(x, "is_cuda", False)), None)
        try:
            if there is None or there.index == torch.cuda.current_device():
                self.kernel[self.grid](**self.args, **self.options)
            else:  # Triton launches on the current device, whatever its tensors lie on
                with torch.cuda.device(there):
                    self.kernel[self.grid](**self.args, **self.options)
        except Exception as error:
            from triton.runtime.errors import OutOfResources  # what has a kernel has Triton; not every system does

            if not isinstance(error, OutOfResources):
                raise
            raise ValueError(f"{self.name}: {self.lacking(error, there)}") from error

    @property
    def name(self) -> str:
        """The kernel's file and name."""
        file = getattr(self.kernel, "__module__", "").rpartition(".")[2]
        return f"{file}.{getattr(self.kernel, '__name__', 'kernel')}".lstrip(".")

    def lacking(self, error: Any, there: torch.device | None) -> str:
        """What a compiled program takes more of than the GPU has, in words: known only once it is compiled."""
        gpu = "this device" if there is None else torch.cuda.get_device_name(there)
        what = "bytes of shared memory" if error.name == "shared memory" else error.name
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return (
            f"a program takes {error.required} {what} with {options or 'its blocks'}, {gpu} has {error.limit}; where "
            "the operation has a launch table, `v3bench tune OP --device cuda` looks for a configuration that fits"
        )

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


@cache
def sms(device: torch.device) -> int:
    """SMs of the device; Hopper's on "meta"; few in the interpreter, which runs programs one after another."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return HOPPER_SMS if device.type == "meta" else INTERPRETED_SMS


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
