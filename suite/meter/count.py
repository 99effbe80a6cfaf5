"""Counting floating-point operations as they are called: the *counted* basis.

Two modes work together. One sees functions, the project's own and torch's fused attention, with the arguments that
say what is needed ("causal", a window, lengths); the other sees every aten operation, forward and backward. An
operation on floating tensors that neither table of operations.py knows stops the count. On the meta device nothing
is computed, so a 671B model is counted without weights; a Triton kernel could not run there unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from v3bench.suite.meter import shapes
from v3bench.suite.meter.operations import OPERATIONS, PRODUCTS, is_free, name_of, operation_name, product


class CountError(RuntimeError):
    """An operation that the counter does not understand, so that no total would be complete."""


@dataclass
class Count:
    """What was counted. FLOPs as int.

    by_operation, by_part: the needed ones; a part is the role of the weight multiplied, or "attention".
    skipped: of the attention matrices, what the needed count leaves out (keys a causal query does not see).
    inside: products seen at the aten level within functions that were counted by their arguments.
    free: elements written by operations that a FLOP count leaves out by definition.
    """

    by_operation: Counter[str] = field(default_factory=Counter)
    by_part: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    inside: Counter[str] = field(default_factory=Counter)
    free: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """Needed FLOPs."""
        return sum(self.by_operation.values())

    @property
    def total_full(self) -> int:
        """FLOPs with every attention matrix taken whole."""
        return self.total + self.skipped

    def gflops_per_token(self, tokens: int) -> float:
        """Needed GFLOP per token, where ``tokens`` were run."""
        return self.total / tokens / 1e9


@contextmanager
def counting(model: nn.Module | None = None, part_of: Callable[[str], str] = str) -> Iterator[Count]:
    """Count what is called within: ``with counting(model, part_of) as count: model(ids)``.

    part_of maps a parameter's name in ``model`` to the part its products belong to. Raises CountError.
    """
    count = Count()
    weights = Weights(dict(model.named_parameters(remove_duplicate=False)) if model is not None else {}, part_of)
    aten = Aten(count, weights)
    with aten, Functions(count, weights, aten):
        yield count


class Weights:
    """Which part a product belongs to: known by the storage of the weight among its operands, views and casts too."""

    def __init__(self, parameters: Mapping[str, Tensor], part_of: Callable[[str], str]) -> None:
        self.parts: dict[int, str] = {}
        self.kept: list[Tensor] = []  # a storage that was freed could be mistaken for another
        for name, parameter in parameters.items():
            self.add(parameter, part_of(name))

    def add(self, tensor: Tensor, part: str) -> None:
        """Products with this tensor, or a view of it, belong to ``part``."""
        self.parts[tensor.untyped_storage()._cdata] = part
        self.kept.append(tensor)

    def part(self, values: Iterable[Any]) -> str:
        """The part of the first weight among the values; "other" without one."""
        for value in values:
            if isinstance(value, Tensor) and (part := self.parts.get(value.untyped_storage()._cdata)):
                return part
        return "other"


class Aten(TorchDispatchMode):
    """Counts matrix products, passes what is free, refuses the rest."""

    def __init__(self, count: Count, weights: Weights) -> None:
        super().__init__()
        self.count, self.weights = count, weights
        self.within = ""  # the function counted by its arguments that is running

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not wrapped by torch.compile's guard, which would load the compiler at the first call."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        if func.namespace == "aten" and name in PRODUCTS:
            flops = product(name, args)
            if self.within:
                self.count.inside[self.within] += flops
            else:
                self.count.by_operation[name] += flops
                self.count.by_part[self.weights.part(args[i] for i in PRODUCTS[name])] += flops
            return func(*args, **kwargs)
        free = self.within or is_free(func)
        if not free:
            with self:
                out = func.decompose(*args, **kwargs) if func.namespace == "aten" else NotImplemented
            if out is not NotImplemented:
                return out
        out = shapes.result(name, args, kwargs) if free else None
        out = func(*args, **kwargs) if out is None else out
        if not free and any(map(is_large, tree_leaves((args, kwargs, out)))):
            operands = ", ".join(shape(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
            raise CountError(f"{func} on {operands or shape(out)} is not understood, so the count would be incomplete")
        if not self.within:
            self.count.free[name] += sum(x.numel() for x in tree_leaves(out) if is_large(x)) if not func.is_view else 0
            if name in ("_to_copy", "clone") and (part := self.weights.part(args)) != "other":
                self.weights.add(out, part)
        return out


class Functions(TorchFunctionMode):
    """Counts functions whose arguments say more than the aten operations below them."""

    def __init__(self, count: Count, weights: Weights, aten: Aten) -> None:
        super().__init__()
        self.count, self.weights, self.aten = count, weights, aten

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        if name not in OPERATIONS:
            if name.startswith("v3bench."):
                raise CountError(f"{name} is an operation without a formula")
            return func(*args, **kwargs)
        known = OPERATIONS[name]
        args, kwargs = known.bind(args, kwargs)
        try:
            needed, whole = known.products(*args, **kwargs)
        except ValueError as error:
            raise CountError(f"{name}: {error}") from error
        part = known.part or self.weights.part(args)
        short = name.rpartition(".")[2]

        def tally(times: int, label: str) -> None:
            self.count.by_operation[label] += times * needed
            self.count.by_part[part] += times * needed
            self.count.skipped += times * (whole - needed)

        tally(1, short)
        work = known.empty if args[0].is_meta else func
        tensors = args[: known.operands]
        if not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
            with self.hidden(short):
                return work(*args, **kwargs)
        if not all(x.requires_grad for x in tensors):
            raise CountError(f"{name}: the backward pass of only some operands is not understood")
        return Opaque.apply(self, short, partial(work, **kwargs), tally, args[known.operands :], *tensors)

    @contextmanager
    def hidden(self, name: str) -> Iterator[None]:
        """What runs within belongs to a function that is counted already."""
        self.aten.within, before = name, self.aten.within
        try:
            yield
        finally:
            self.aten.within = before


class Opaque(torch.autograd.Function):
    """A function counted by its arguments, backward too: each of its products has two of the same size there."""

    @staticmethod
    def forward(ctx: Any, mode: Functions, name: str, work: Any, tally: Any, rest: Any, *operands: Tensor) -> Any:
        ctx.inputs = [x.detach().requires_grad_() for x in operands]
        with torch.enable_grad(), mode.hidden(name):
            ctx.out = work(*ctx.inputs, *rest)
        ctx.mode, ctx.name, ctx.tally = mode, name, tally
        return ctx.out.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        ctx.tally(2, f"{ctx.name}_backward")
        if grad.is_meta:
            grads = tuple(torch.empty_like(x) for x in ctx.inputs)
        else:
            with ctx.mode.hidden(f"{ctx.name}_backward"):
                grads = torch.autograd.grad(ctx.out, ctx.inputs, grad)
        return (None,) * 5 + grads


def is_large(value: Any) -> bool:
    """A floating tensor of more than one element: one that a product could hide behind."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()) and value.numel() > 1


def shape(value: Any) -> str:
    return f"{value.dtype}{tuple(value.shape)}".removeprefix("torch.") if isinstance(value, Tensor) else str(value)
