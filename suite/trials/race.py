"""The contenders of a timed case, each checked before it is timed; and one implementation over all shapes of a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from v3bench.kernels import checks
from v3bench.suite.laws import work
from v3bench.suite.ledger.cases import Case
from v3bench.suite.meter import graph, machine
from v3bench.suite.meter.contender import Contender
from v3bench.suite.trials import own, registry
from v3bench.suite.trials.check import seeded
from v3bench.suite.trials.contest import OURS, Wrong, built, examine
from v3bench.suite.trials.trial import Inputs, Missing, Shape, Trial

# The oracle computes in float64: eight bytes for each of FP8's, or four tensors' worth of bfloat16's.
ORACLE = 8
CROWDED = "does not fit the GPU's memory"


def operation(series: str) -> tuple[str, str]:
    """ "kernels.<op>/<impl>" as (operation, implementation)."""
    subject, _, impl = series.partition("/")
    return subject.removeprefix("kernels."), impl


def inputs_of(trial: Trial, shape: Shape, device: str, sets: int) -> list[Inputs]:
    """So many sets of inputs. Raises Missing where the GPU is too old, or they and the oracle of one do not fit it."""
    if lacking := checks.missing(checks.HOPPER, torch.device(device)):
        raise Missing(lacking)
    nbytes = work.of(trial.op, shape).nbytes
    if why := machine.shortage(nbytes * (sets + ORACLE), free_memory(device), device):
        raise Missing(why)
    try:
        return [seeded(trial, shape, device), *(trial.inputs(shape, device) for _ in range(sets - 1))]
    except torch.OutOfMemoryError as error:
        raise Missing(f"{CROWDED} with {sets} sets of inputs") from error


def restore(trial: Trial, shape: Shape, device: str, inputs: Inputs) -> None:
    """Give inputs that somebody's own kernel may have written into their first values again, where they lie."""
    for name, value in seeded(trial, shape, device).items():
        if isinstance(value, torch.Tensor):
            inputs[name].copy_(value)


def free_memory(device: str) -> int:
    """Bytes that can be allocated on the device."""
    if device != "cuda":
        return machine.memory()[1]
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])


def expected(trial: Trial, inputs: Inputs) -> Any:
    """The oracle's result. Raises Missing where there is no room for it."""
    try:
        return trial.oracle(**inputs)
    except torch.OutOfMemoryError as error:
        raise Missing(f"its float64 oracle {CROWDED}") from error


def buffer_sets(op: str, shape: Shape, *, cold: bool) -> int:
    """How many sets of inputs a timing goes round; a cold one flushes the L2 itself."""
    return 1 if cold else graph.sets_needed(work.of(op, shape).nbytes, graph.l2_bytes())


class Field:
    """The implementations of a timed case on a device: ``enter`` checks them all, ``contenders`` are timed."""

    def __init__(self, case: Case, device: str) -> None:
        self.case, self.device = case, device
        self.contenders: dict[str, Contender] = {}
        self.errors: dict[str, float] = {}  # over what is allowed, of those that are held to a bar

    def enter(self) -> None:
        """Check every implementation of the case, ours first. Raises Missing where the case as a whole cannot run."""
        if self.device == "cuda":
            # Other cases' shapes count towards torch.compile's limit, behind which it runs uncompiled without a word.
            torch.compiler.reset()
        op, _ = operation(self.case.series[0])
        trial, shape = registry.load(op), self.case.dimensions
        sets = buffer_sets(op, shape, cold=bool(self.case.shape.get("cold")))
        batches = inputs_of(trial, shape, self.device, sets)
        want, like = expected(trial, batches[0]), None
        for series in self.case.series:
            impl = operation(series)[1]
            self.contenders[series], result = self.tried(trial, series, batches, want, like)
            like = result if impl == OURS else like

    def tried(
        self, trial: Trial, series: str, batches: Sequence[Inputs], want: Any, like: Any
    ) -> tuple[Contender, Any]:
        """One implementation as a contender, and its result; one that is missing, or fails, says why."""
        impl = operation(series)[1]
        try:
            error, result = examine(trial, impl, batches[0], want, like)
            calls = [built(trial, impl, inputs) for inputs in batches]
        except Missing as missing:
            return Contender(missing=str(missing)), None
        except torch.OutOfMemoryError:
            return Contender(missing=CROWDED), None
        except Wrong as wrong:
            if own.is_own(impl):
                restore(trial, self.case.dimensions, self.device, batches[0])
            return Contender(failed=str(wrong)), None
        if error is not None:
            self.errors[series] = error
        return Contender(calls=calls), result


def checked(op: str, impl: str, shapes: Sequence[Mapping[str, int]], device: str) -> tuple[float, int]:
    """(Worst error over what is allowed, shapes checked); shapes without room are left out. Raises Wrong, Missing."""
    trial, errors, why = registry.load(op), [], "the case has no shape"
    for shape in shapes:
        try:
            errors.append(error_at(trial, impl, shape, device))
        except Missing as missing:
            why = str(missing)
        except torch.OutOfMemoryError:
            why = CROWDED
        except Wrong as wrong:
            raise Wrong(f"at {', '.join(f'{key}={n}' for key, n in shape.items())}: {wrong}") from wrong
    if not errors:
        raise Missing(why)
    return max(errors), len(errors)


def error_at(trial: Trial, impl: str, shape: Shape, device: str) -> float:
    """The error at one shape; what it took is free again afterwards."""
    (inputs,) = inputs_of(trial, shape, device, 1)
    like = None
    if own.is_own(impl):
        with suppress(Exception):  # where ours fails, one's own has still the oracle's shape
            like = trial.ours(**inputs)
    error, _ = examine(trial, impl, inputs, expected(trial, inputs), like)
    return error or 0.0
