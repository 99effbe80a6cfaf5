"""A kernel's key in Triton's cache, made independent of what the process has launched before.

Triton hashes into a kernel's key the global constants of a function that it calls only if that function's own key is
known by then. So two runs that launch in another order do not find each other's kernels and compile them again. Here
the keys of all that a kernel calls are made first, the innermost first, so that there is one key.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

SETTLED: set[int] = set()  # by id: a kernel's hash would make its key


def settle(kernel: Any) -> None:
    """Make the keys of what a kernel calls, then its own. Nothing of one that is interpreted."""
    if id(kernel) in SETTLED:
        return
    SETTLED.add(id(kernel))
    if keyed(kernel):
        for called in calls(kernel):
            settle(called)
        _ = kernel.cache_key


def calls(kernel: Any) -> Iterator[Any]:
    """The functions under @triton.jit that its code names, also as a module's attribute."""
    names, known = kernel.fn.__code__.co_names, kernel.fn.__globals__
    for found in [known.get(name) for name in names]:
        if isinstance(found, ModuleType):
            yield from (part for part in (vars(found).get(name) for name in names) if keyed(part))
        elif keyed(found):
            yield found


def keyed(value: Any) -> bool:
    """Whether it is a function that Triton compiles."""
    return hasattr(type(value), "cache_key")
