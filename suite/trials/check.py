"""The correctness check before any time: against the oracle, outputs poisoned, repeated runs bitwise equal.

poisoned    while active, memory that torch hands out uninitialised is filled with NaN (0xFF bytes)
check       an implementation's worst error over what is allowed
against     the same where the oracle's result is known
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from v3bench.suite.trials.trial import Inputs, Shape, Trial

EMPTY = ("empty.memory_format", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
SEED = 20250514


class Poison(TorchDispatchMode):
    """Fills what empty() returns: an element that no kernel writes stays NaN (-1 as an integer)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = str(func).removeprefix("aten.").removesuffix(".default")
        if name in EMPTY and isinstance(made, Tensor) and not made.is_meta:
            poison(made)
        return made


def poison(tensor: Tensor) -> None:
    """Fill with bytes 0xFF: NaN in every floating format here."""
    storage = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
    storage.fill_(0xFF)


@contextmanager
def poisoned() -> Iterator[None]:
    """While active, uninitialised memory is NaN."""
    with Poison():
        yield


def seeded(trial: Trial, shape: Shape, device: str) -> Inputs:
    """The inputs of a shape, the same at every call."""
    torch.manual_seed(SEED)
    return trial.inputs(shape, device)


def check(trial: Trial, inputs: Inputs, function: Callable[..., Any], error: Any = None, repeats: int = 2) -> float:
    """Worst error of ``function(**inputs)`` over what is allowed (above 1: wrong)."""
    return against(trial.oracle(**inputs), error or trial.error, inputs, function, repeats)


def against(
    want: Any,
    error: Callable[[Any, Any, Inputs], float],
    inputs: Inputs,
    function: Callable[..., Any],
    repeats: int = 2,
) -> float:
    """As ``check``, with the oracle's result for these inputs.

    Outputs are poisoned before each of the ``repeats`` runs; inf where two runs differ in a bit.
    """
    results = []
    for _ in range(repeats):
        with poisoned():
            results.append(function(**inputs))
    if not all(same_bits(results[0], other) for other in results[1:]):
        return float("inf")
    return float(error(results[0], want, inputs))


def same_bits(a: Any, b: Any) -> bool:
    """Whether two results are equal bit for bit: tensors, or tuples of them; NaN equals the same NaN."""
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(raw(a), raw(b))
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor's elements."""
    return tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8)
