"""The implementations of one operation at one shape: built, and held to what the operation asks of them.

    built         the call that is checked and timed
    examine       the worst error of one implementation; Wrong or Missing say why it has none

"triton" is ours, "package.module:function" somebody's own, any other name a rival of the trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from v3bench.model_ref.errors import BadInput
from v3bench.suite.trials import own
from v3bench.suite.trials.check import poisoned, same_bits
from v3bench.suite.trials.trial import Inputs, Missing, Trial

OURS = "triton"


class Wrong(Exception):
    """Why an implementation's result does not count."""


class Lost(Exception):
    """An implementation that broke the GPU's context, and what it raised: nothing more runs in this process."""

    def __init__(self, impl: str, said: str) -> None:
        super().__init__(f"{impl} broke the GPU's context: {said}")
        self.impl, self.said = impl, said


def built(trial: Trial, impl: str, inputs: Inputs, *, small: bool = False) -> Callable[[], Any]:
    """The call on these inputs. small: with blocks for small shapes. Raises Missing, or whatever a rival raises."""
    if impl == OURS:
        config = {"config": dict(trial.small_config)} if small and trial.small_config else {}
        return partial(trial.ours, **inputs, **config)
    if own.is_own(impl):
        return partial(own.function(impl), **inputs)
    return trial.rivals[impl].build(inputs)


def examine(
    trial: Trial, impl: str, inputs: Inputs, want: Any, like: Any = None, *, small: bool = False
) -> tuple[float | None, Any]:
    """(Worst error over what is allowed, a result); no error for a rival that computes something else by design.

    want: the oracle's result. like: a result of ours, whose dtypes and shapes one's own has to have. Ours and one's own
    run twice on poisoned outputs and must give the same bits; rivals and one's own run as they will be timed, and one's
    own must leave its inputs as they are. Raises Wrong, Missing, Lost, torch.OutOfMemoryError.
    """
    with blamed(impl):
        return examined(trial, impl, inputs, want, like, small)


def examined(trial: Trial, impl: str, inputs: Inputs, want: Any, like: Any, small: bool) -> tuple[float | None, Any]:
    """As ``examine``; what an implementation raises passes through."""
    mine, theirs = impl == OURS, own.is_own(impl)
    error = trial.error if mine or theirs else trial.rivals[impl].error
    call = built(trial, impl, inputs, small=small)
    kept = {name: one.clone() for name, one in stored(inputs).items()} if theirs else {}
    results = [] if mine else [call()]
    if mine or theirs:
        with poisoned():
            # The interpreter runs one program after another: a second run could not differ.
            results += [call() for _ in range(1 if small and mine else 2)]
    for name, one in stored(inputs).items() if theirs else ():
        if not torch.equal(one, kept.pop(name)):
            raise Wrong(f"changes its input {name}")
    if theirs and like is not None and (odd := differing(results[0], like)):
        raise Wrong(odd)
    if error is None:
        return None, results[0]
    if (mine or theirs) and not all(same_bits(results[-1], other) for other in results[-2:]):
        raise Wrong("two runs on the same inputs differ")
    # One's own as it will be timed, and on poisoned outputs; ours is the same launch in both.
    worst = max(float(error(got, want, inputs)) for got in (results[:1] if mine else results[:2]))
    if not worst <= 1:
        wide = f"is {worst:.3g} times what is allowed" if worst < float("inf") else "is beyond any bound"
        raise Wrong(f"its error {wide}")
    return worst, results[0]


@contextmanager
def blamed(impl: str) -> Iterator[None]:
    """What an implementation raises becomes Wrong, in one line; what it lacks, and lack of memory, stay as they are.

    Raises Lost where it has taken the GPU with it.
    """
    try:
        yield
    except (Missing, Wrong, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, BadInput) and error.where.startswith(own.FLAG):
            raise
        said = f"raised {type(error).__name__}: {' '.join(str(error).split())}"[:250]
        if lost():
            raise Lost(impl, said) from error
        raise Wrong(said) from error


def lost() -> bool:
    """Whether this process can do nothing more on the GPU, as after an access to memory that is not its own."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def differing(got: Any, like: Any, name: str = "") -> str:
    """How a result's types and shapes differ from ours, or ""."""
    if isinstance(like, tuple | list):
        if not isinstance(got, tuple | list) or len(got) != len(like):
            found = f"{len(got)} results" if isinstance(got, tuple | list) else described(got)
            return f"returned {found}, expected {len(like)} results"
        parts = (differing(a, b, f" as result {n}") for n, (a, b) in enumerate(zip(got, like, strict=True), 1))
        return next(filter(None, parts), "")
    return "" if described(got) == described(like) else f"returned {described(got)}{name}, expected {described(like)}"


def described(value: Any) -> str:
    """A tensor's dtype, shape and device; another value's type."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} on {value.device.type}"


def stored(inputs: Inputs) -> dict[str, Tensor]:
    """All bytes that lie behind each input tensor, by name: what no stride reaches too.

    They are compared with a copy, as no sum of them sees a permutation for certain; race.ORACLE leaves room for it.
    """
    return {
        name: torch.empty(0, dtype=torch.uint8, device=value.device).set_(value.untyped_storage())
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    }
