"""A Hopper GPU that is not there: launchers run whole, Triton compiles as it would there, and nothing is launched.

    present     while active, torch and Triton see one such GPU, and "cuda" tensors are meta tensors that lie on it
    compiling   while active, tells of every kernel that a launch asks the compiler for, and decides which it gets

Everything that Triton's cache keys depend on is the JIT's own doing: how it specialises arguments, which options it
adds, which target it asks the driver for. So what is compiled here is found there, by the same Triton for the same GPU.
Triton's driver, torch's queries and torch's functions are exchanged for a process as a whole: callers use a child.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from torch.overrides import TorchFunctionMode
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas_version
from triton.runtime import driver
from v3bench.kernels import launch, tables
from v3bench.kernels.aot import SHARED_LIMIT

CAPABILITY = (9, 0)
THREADS = 1024  # of a CTA
PROJECT = __name__.partition(".")[0] + "."  # in which our modules are
GPU, META = torch.device("cuda", 0), torch.device("meta")


class There(Tensor):
    """A meta tensor that says it lies on the GPU. Its address is its place in its storage, which starts aligned."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)


class Elsewhere(TorchFunctionMode):
    """What is made on the GPU, or from what lies there, lies there; torch itself works on meta tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        if getattr(func, "__module__", "").startswith(PROJECT):  # an operation (operation.py), which runs there as well
            with self:
                return func.__wrapped__(*args, **(kwargs or {}))
        return each(to_gpu, func(*each(to_meta, args), **each(to_meta, kwargs or {})))


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """A value changed, or what a tuple, list or dict holds."""
    if isinstance(value, dict):
        return {name: each(change, part) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(each(change, part) for part in value)
    if isinstance(value, tuple) and type(value).__module__ == "torch.return_types":
        return type(value)(each(change, part) for part in value)
    return change(value)


def to_meta(value: Any) -> Any:
    """The meta device for the GPU, whatever it is called, and a meta tensor for one there; others as they are."""
    if isinstance(value, There):
        return value.as_subclass(Tensor)
    if isinstance(value, torch.device):
        return META if value.type == "cuda" else value
    return META if isinstance(value, str) and value.partition(":")[0] == "cuda" else value


def to_gpu(value: Any) -> Any:
    """A tensor there for a meta tensor; others as they are."""
    return value.as_subclass(There) if isinstance(value, Tensor) and value.is_meta else value


class Driver:
    """Triton's driver of such a GPU: it loads every kernel and launches none."""

    def __init__(self) -> None:
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": SHARED_LIMIT},
            load_binary=lambda name, binary, shared, device: (None, None, 0, 0, THREADS),
        )
        self.launcher_cls = lambda source, metadata: lambda *args: None

    def get_current_target(self) -> GPUTarget:
        """What it compiles for."""
        return GPUTarget("cuda", CAPABILITY[0] * 10 + CAPABILITY[1], 32)

    def get_current_device(self) -> int:
        """The one there is."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default one."""
        return 0


@contextmanager
def present(name: str = tables.HOPPER, sms: int = launch.HOPPER_SMS) -> Iterator[None]:
    """One GPU of this name, by which launch tables are chosen, with so many SMs."""
    about = SimpleNamespace(name=name, multi_processor_count=sms)
    queries: dict[str, Any] = {
        "current_device": lambda: GPU.index,
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_name": lambda device=None: name,
        "get_device_properties": lambda device=None: about,
        "is_current_stream_capturing": lambda: False,
    }
    forget = [launch.sms.cache_clear, tables.name_of.cache_clear]
    driver.set_active(Driver())
    try:
        for each in forget:
            each()
        with patch.multiple(torch.cuda, **queries), Elsewhere():
            yield
    finally:
        driver._active = None
        for each in forget:
            each()


@dataclass(frozen=True)
class Asked:
    """A kernel that a launch asked the compiler for."""

    name: str  # of the function
    key: str  # Triton's key within a process: what is specialised, and the options
    hash: str = ""  # the name of its folder in Triton's cache; "" where it was not compiled
    hit: bool = False  # it was in the cache


@contextmanager
def compiling(wanted: Callable[[str], bool]) -> Iterator[list[Asked]]:
    """A list of what is asked for inside, in order; kernels whose key is not wanted are not compiled."""
    asked: list[Asked] = []

    def before(*, key: Any, fn: Any, **rest: Any) -> bool:
        """Whether Triton shall leave it."""
        whole = f"{fn.module}.{fn.name}-{key}"
        asked.append(Asked(fn.name, hashlib.sha256(whole.encode()).hexdigest()))
        return not wanted(asked[-1].key)

    def after(*, metadata: Any, cache_hit: bool, **rest: Any) -> None:
        """The compiler has made it, or found it."""
        asked[-1] = Asked(asked[-1].name, asked[-1].key, metadata["hash"], cache_hit)

    old = knobs.runtime.jit_cache_hook, knobs.compilation.listener
    knobs.runtime.jit_cache_hook, knobs.compilation.listener = before, after
    try:
        yield asked
    finally:
        knobs.runtime.jit_cache_hook, knobs.compilation.listener = old


def versions() -> dict[str, str]:
    """The compilers that are part of every key: Triton's version, and ptxas's own line."""
    said: str = get_ptxas_version(CAPABILITY[0] * 10 + CAPABILITY[1])
    release = next((line for line in said.splitlines() if "release" in line), said.strip())
    return {"triton": triton.__version__, "ptxas": release.rpartition(" ")[2]}
