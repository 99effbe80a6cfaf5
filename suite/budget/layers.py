"""The error budget of a whole model: what each product of each layer adds, and what the layers make of it.

Probe       an Ops that computes exactly, and notes how far a recipe's product of the same operands would be off
products    the probe's errors of one training step: layer x GEMM x (forward, dgrad, wgrad)
states      how far the states behind each layer are off when the whole model runs by the recipe
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from v3bench.kernels import experts, ffn, norm_linear, swiglu
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref import precision
from v3bench.model_ref.precision import BF16, PLAIN, Recipe
from v3bench.suite.budget.error import Error, error

GEMMS = ("forward", "dgrad", "wgrad")
Key = tuple[str, str]  # a weight's name in the model, one of GEMMS
Rebuilt = Callable[[Ops], Any]  # operations -> a model with one and the same weights


class Probe:
    """Notes errors by weight and GEMM while a model runs on ``ops``; ``attach`` tells it the weights' names."""

    def __init__(self, recipe: Recipe, base: Ops = TORCH) -> None:
        self.recipe, self.errors = recipe, dict[Key, Error]()
        self.names: dict[int, str] = {}
        self.ops = replace(
            base,
            name=f"{base.name}-probe",
            linear=self.linear,
            norm_linear=partial(norm_linear.composed, rms_norm=base.rms_norm, product=self.linear),
            ffn=partial(ffn.composed, rms_norm=base.rms_norm, product=self.linear, activation=swiglu.swiglu),
            experts=partial(experts.grouped, gemm=partial(self.product, recipe=precision.at(recipe))),
        )

    def attach(self, model: nn.Module) -> None:
        """Learn the names of a model's weights."""
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}

    def linear(self, x: Tensor, w: Tensor, b: Tensor | None = None, *, site: str = "") -> Tensor:
        """As an Ops' linear, exact."""
        y = self.product(x.reshape(-1, x.shape[-1]), w, recipe=precision.at(self.recipe, site))
        y = y.view(*x.shape[:-1], len(w))
        return y if b is None else y + b

    def product(self, x: Tensor, w: Tensor, offsets: Tensor | None = None, *, recipe: Recipe) -> Tensor:
        """As precision.product, exact."""
        y: Tensor = Probed.apply(x, w, offsets, recipe, partial(self.note, self.names[id(w)]))
        return y

    def note(self, name: str, gemm: str, got: Tensor, want: Tensor) -> None:
        """Keep the error of one product."""
        self.errors[name, gemm] = error(got, want)


class Probed(torch.autograd.Function):
    """The exact product; the recipe's beside it, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, offsets: Tensor | None, recipe: Recipe, note: Any) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.given = offsets, recipe, note
        y = precision.forward(BF16, x, w, offsets, x.dtype)
        if recipe.forward != PLAIN:
            right = precision.quantized(recipe.forward.right, w, x.dtype)
            note("forward", precision.forward(recipe, x, right, offsets, x.dtype), y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, w), (offsets, recipe, note) = ctx.saved_tensors, ctx.given
        dx = precision.dgrad(BF16, dy, w, offsets, dy.dtype)
        if recipe.dgrad != PLAIN:
            right = precision.quantized(recipe.dgrad.right, w, dy.dtype)
            note("dgrad", precision.dgrad(recipe, dy, right, offsets, dy.dtype), dx)
        dw = precision.wgrad(BF16, dy, x, offsets, dy.dtype)
        if recipe.wgrad != PLAIN:
            kept = x if recipe.kept is None else recipe.kept(x).to(x.dtype)
            note("wgrad", precision.wgrad(recipe, dy, kept, offsets, dy.dtype), dw)
        return dx, dw, None, None, None


def products(rebuilt: Rebuilt, recipe: Recipe, ids: Tensor) -> Mapping[Key, Error]:
    """Errors by (weight, GEMM) of one training step on ids (B, T+1); "layers.3.attn.w_o" and its like.

    ``rebuilt(ops)`` makes the model on given operations. Operands are the exact run's, so that each figure is one
    product's own.
    """
    probe = Probe(recipe)
    probed = rebuilt(probe.ops)
    probe.attach(probed)
    probed.loss(ids).total.backward()
    return probe.errors


@torch.no_grad()
def states(model: Any, exact: Any, ids: Tensor) -> list[Error]:
    """Errors of the residual stream behind each layer, the last behind the final norm, for ids (B, S).

    Of one model against another with the same weights.
    """
    return [error(*pair) for pair in zip(behind(model, ids), behind(exact, ids), strict=True)]


def behind(model: Any, ids: Tensor) -> list[Tensor]:
    """What each layer gives out, (B, S, D), then the final norm."""
    seen: list[Tensor] = []
    hooks = [part.register_forward_hook(lambda _, __, out: seen.append(out)) for part in (*model.layers, model.norm)]
    try:
        model.hidden(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
