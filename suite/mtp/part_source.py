"""Weights and inputs of a part of a decode step: what parts.py makes its parts of.

Part     a part's weights; ``at(batch, context)`` is a step
Step     with its inputs: any tokens of each request, in weights that are no longer in a cache
Source   modules of a model without memory, and the same with random weights
agree    the correctness check: two tokens at once give what each gives by itself
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from v3bench.model_ref.model import Model
from v3bench.suite.meter import graph, machine
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.race import free_memory
from v3bench.suite.trials.trial import Missing

TOKENS = 2  # of each request there are inputs for
FLUSH = 8  # times a CPU's last cache that is gone over before weights come round again
PATTERN = (1 << 22) - 3  # random values that weights repeat; no row's multiple, so that rows differ
# Of a result: one token and two are summed in other orders, of up to 18432 products.
ROUNDINGS = {torch.float32: 1024, torch.bfloat16: 16}

Run = Callable[[int, range], Tensor]  # (copy, which tokens of each request) -> their outputs
BOTH, EACH = range(TOKENS), tuple(range(n, n + 1) for n in range(TOKENS))


@dataclass(frozen=True, eq=False)
class Step:
    """``run`` gives the outputs with tokens along ``axis``; ``nbytes`` are read by a step of 1, 2 tokens, each once."""

    run: Run
    copies: int
    axis: int
    nbytes: tuple[float, float]

    def calls(self, tokens: int) -> list[Callable[[], Tensor]]:
        """The step of so many tokens of each request, once for each copy of the weights."""
        return [self.call(copy, tokens) for copy in range(self.copies)]

    def call(self, copy: int, tokens: int) -> Callable[[], Tensor]:
        """Of one copy."""
        return lambda: self.run(copy, range(tokens))


@dataclass(frozen=True, eq=False)
class Part:
    """``copies`` of the weights, which are gone round; ``at`` makes a Step of (batch, cached tokens)."""

    copies: Sequence[nn.Module]
    at: Callable[[int, int], Step]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the weights' tensors."""
        return [tuple(w.shape) for w in self.copies[0].parameters()]


@dataclass(frozen=True, eq=False)
class Source:
    """A dense and a MoE layer, an MTP module and the head, without memory behind them, and where parts are wanted."""

    model: Model
    device: str
    ep: int
    ways: int

    def real(self, module: nn.Module, most: int | None = None) -> list[nn.Module]:
        """Copies of a module with random weights, so many that a step finds none of its own in a cache.

        Raises Missing where one does not fit.
        """
        if lacking := machine.shortage(nbytes := size(module), free_memory(self.device), self.device):
            raise Missing(lacking)
        if self.device == "cuda":
            wanted = graph.sets_needed(nbytes, graph.l2_bytes())
        else:
            wanted = -(-FLUSH * machine.last_cache() // nbytes)
        return [self.filled(deepcopy(module)) for _ in range(max(1, wanted if most is None else min(wanted, most)))]

    @torch.no_grad()
    def filled(self, module: nn.Module) -> nn.Module:
        """With norms of one and random matrices."""
        module.to_empty(device=self.device)
        for w in module.parameters():
            w.requires_grad_(False)
            if w.ndim == 1:
                w.fill_(1.0)
            else:
                values = self.random(min(w.numel(), PATTERN)) * self.model.config.initializer_range
                for some in w.view(-1).split(PATTERN):
                    some.copy_(values[: len(some)])
        return module

    def inputs(self, B: int) -> dict[range, Tensor]:
        """States of any tokens of B requests, (B, n, hidden_size), each in memory of their own."""
        x = self.random(B, TOKENS, self.model.config.hidden_size)
        return {own: x[:, own.start : own.stop].contiguous() for own in (BOTH, *EACH)}

    def random(self, *shape: int) -> Tensor:
        """Standard normal values."""
        return torch.randn(*shape, device=self.device, dtype=self.model.embed.weight.dtype)


def size(module: nn.Module) -> int:
    """Bytes of the weights."""
    return sum(w.nbytes for w in module.parameters())


def agree(one: Step) -> None:
    """Raise AssertionError unless two tokens at once give what each of them gives by itself."""
    both = one.run(0, BOTH)  # first: a cache then holds both
    each = torch.cat([one.run(0, own) for own in EACH], dim=one.axis)
    error = rounding_error(both, each, both.dtype, ROUNDINGS[both.dtype])
    assert error <= 1, f"two tokens at once give {error:.3g} times what rounding explains beside one by one"
