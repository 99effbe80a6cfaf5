"""The precision of a model's matrix products, chosen by value: DeepSeek-V3's FP8 recipe and what it is compared with.

    Operands   how the two sides of one product are quantised
    Recipe     the three products of a layer (V3 report, section 3.3.1, figure 6), and what stays out
    RECIPES    by name
    ops        an Ops for Model(config, ops=...): the recipe emulated in plain torch
    on_kernels the same on this project's Triton kernels

Outside stay embedding, head, gate, norms, attention core, MTP's eh_proj, and the optimiser with its master weights.
Not told apart, though V3 does: scales of a power of two where values are sent or follow the attention, its optimiser's
states in BF16, and attention's own backward pass, which reads there what was kept. A gradient has its weight's type.
Emulated operands are float32 numbers that the format holds; they are multiplied and added in ``compute``, so what is
emulated is the operands' rounding. What a tensor core's short sums add to it is in suite/laws/numerics.py.

T tokens  N outputs  K inputs  E experts
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from v3bench.kernels import experts, ffn, grouped_gemm, norm_linear, swiglu
from v3bench.kernels.linear import HIGH
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref.formats import E4M1, E4M2, E4M3, E5M2, E5M6, Format
from v3bench.model_ref.scaling import GUARD, RELEASED, Scaling, along_groups

TILE = 128
AFTER_ATTENTION = "w_o"


@dataclass(frozen=True)
class Operands:
    """How the sides of a product are quantised; None: not at all."""

    left: Scaling | None = None
    right: Scaling | None = None


PLAIN = Operands()


@dataclass(frozen=True)
class Recipe:
    """The three products of y = x W'.

    forward   x (T, K), W (N, K), summed along K
    dgrad     dy (T, N), W (N, K), along N
    wgrad     dy (T, N), x (T, K), along T
    ``kept``             what x is kept as for wgrad, which quantises it again; None: as it is
    ``after_attention``  the same where x is the output of attention
    ``high``             products, by the name of their weight, that stay out
    """

    name: str
    forward: Operands = PLAIN
    dgrad: Operands = PLAIN
    wgrad: Operands = PLAIN
    kept: Scaling | None = None
    after_attention: Scaling | None = None
    high: frozenset[str] = HIGH


def tiled(
    name: str, form: Format = E4M3, *, gradient: Format | None = None, power_of_two: bool = False, **rest: Any
) -> Recipe:
    """V3's boxes: 1 x 128 along what is summed, 128 x 128 for weights; ``gradient``: the format of dy."""

    def of(form: Format, *box: int, clamp: float = GUARD) -> Scaling:
        return Scaling(form, box, clamp, power_of_two)  # type: ignore[arg-type]

    dy, weight = gradient or form, of(form, TILE, TILE, clamp=RELEASED)
    return Recipe(
        name,
        forward=Operands(of(form, 1, TILE, clamp=RELEASED), weight),
        dgrad=Operands(of(dy, 1, TILE), weight),
        wgrad=Operands(of(dy, TILE, 1), of(form, TILE, 1, clamp=RELEASED)),
        **rest,
    )


def uniform(name: str, form: Format, forward: tuple[int, int], weight: tuple[int, int]) -> Recipe:
    """One kind of box for all that is multiplied with a weight along its rows, another for the weight.

    Both are given for the forward product, (rows, columns); for the others they are turned with what is summed.
    """
    rows, weights = Scaling(form, forward), Scaling(form, weight)
    turned = Scaling(form, weight[::-1])
    columns = Scaling(form, forward[::-1])
    return Recipe(name, Operands(rows, weights), Operands(rows, turned), Operands(columns, columns))


def block_wise(name: str) -> Recipe:
    """V3's recipe with gradients in blocks of 128 x 128 too, which the report saw diverge (appendix B.2)."""
    v3, blocks = tiled(name), Scaling(E4M3, (TILE, TILE))
    return replace(v3, dgrad=Operands(blocks, v3.dgrad.right), wgrad=Operands(blocks, v3.wgrad.right))


BF16 = Recipe("bf16")
FP8 = tiled("fp8")  # E4M3 throughout, scales in FP32; as on the kernels, wgrad quantises x itself
KEPT_E5M6 = Scaling(E5M6, (1, TILE), power_of_two=True)
# As the report trains (section 3.3.3): what forward has quantised is kept, and quantised again along the tokens.
V3 = tiled("fp8-kept", kept=Scaling(E4M3, (1, TILE), RELEASED), after_attention=KEPT_E5M6)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        BF16,
        FP8,
        V3,
        tiled("fp8-ue8m0", power_of_two=True),
        tiled("fp8-e5m6", after_attention=KEPT_E5M6),
        tiled("fp8-e5m2-gradients", gradient=E5M2),
        block_wise("fp8-block-gradients"),
        uniform("fp8-per-token", E4M3, (1, 0), (1, 0)),
        uniform("fp8-per-tensor", E4M3, (0, 0), (0, 0)),
        tiled("control-2-bit", E4M2),
        tiled("control-1-bit", E4M1),
    )
}


def ops(recipe: Recipe, base: Ops = TORCH, *, compute: torch.dtype = torch.float32) -> Ops:
    """``base`` with the products of ``recipe``, emulated; ``compute`` is what these and attention are calculated in.

    The values of E4M3 times a scale take more digits than bfloat16 has, unless scales are powers of two: then a product
    in bfloat16 is the same, and faster where the machine has instructions for it. Where it has none, float32 is faster
    for bfloat16 tensors too: operands are the same numbers, and sums are rounded once.
    """
    one = partial(linear, recipe=recipe, compute=compute)
    return replace(
        base,
        name=f"{base.name}-{recipe.name}",
        linear=one,
        norm_linear=partial(norm_linear.composed, rms_norm=base.rms_norm, product=one),
        attention=partial(attention, inner=base.attention, compute=compute),
        ffn=partial(ffn.composed, rms_norm=base.rms_norm, product=one, activation=swiglu.swiglu),
        experts=partial(experts.grouped, gemm=partial(product, recipe=at(recipe), compute=compute)),
    )


def on_kernels(recipe: Recipe) -> Ops:
    """A new set of this project's Triton kernels for ``recipe``. Raises ValueError for one that they do not have."""
    from v3bench.kernels import triton_ops  # emulation needs no Triton

    if recipe == BF16:
        return triton_ops.TRITON
    if recipe == FP8:
        return triton_ops.fp8()
    raise ValueError(f"the Triton kernels have no recipe {recipe.name!r}, only {BF16.name!r} and {FP8.name!r}")


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, inner: Callable[..., Tensor], compute: torch.dtype, **rest: Any
) -> Tensor:
    """``inner`` over q, k, v in ``compute`` -> in q's dtype."""
    return inner(q.to(compute), k.to(compute), v.to(compute), **rest).to(q.dtype)


def linear(
    x: Tensor, w: Tensor, b: Tensor | None = None, *, site: str = "", recipe: Recipe, compute: torch.dtype
) -> Tensor:
    """x (..., K), w (N, K), b (N) or None -> (..., N) in x's dtype; ``site`` as in kernels/linear.py."""
    y = product(x.reshape(-1, x.shape[-1]), w, recipe=at(recipe, site), compute=compute).view(*x.shape[:-1], len(w))
    return y if b is None else y + b


def at(recipe: Recipe, site: str = "") -> Recipe:
    """The recipe of one product, by the name of its weight where that has one."""
    if site in recipe.high:
        return replace(recipe, forward=PLAIN, dgrad=PLAIN, wgrad=PLAIN, kept=None, after_attention=None)
    after = recipe.after_attention if site == AFTER_ATTENTION else None
    return replace(recipe, kept=after or recipe.kept, after_attention=None)


def product(
    x: Tensor, w: Tensor, offsets: Tensor | None = None, *, recipe: Recipe, compute: torch.dtype = torch.float32
) -> Tensor:
    """x (T, K), w (N, K) -> (T, N) in x's dtype, differentiable.

    With offsets int32 (E), the ends of each expert's rows, w is (E, N, K). The recipe is that of this product (``at``).
    """
    if torch.is_grad_enabled() and (x.requires_grad or w.requires_grad):
        y: Tensor = Product.apply(x, w, offsets, recipe, compute)
        return y
    return forward(recipe, x, quantized(recipe.forward.right, w, compute), offsets, compute)


class Product(torch.autograd.Function):
    """Keeps x for wgrad, and what W became for dgrad if that takes the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, offsets: Tensor | None, recipe: Recipe, compute: torch.dtype) -> Tensor:
        right = quantized(recipe.forward.right, w, compute)
        again = recipe.dgrad.right == recipe.forward.right
        ctx.save_for_backward(x if recipe.kept is None else recipe.kept(x).to(x.dtype), right if again else w)
        ctx.given, ctx.again, ctx.dtype = (offsets, compute), again, w.dtype
        ctx.recipe = recipe
        return forward(recipe, x, right, offsets, compute)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, w), recipe, (offsets, compute) = ctx.saved_tensors, ctx.recipe, ctx.given
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = dgrad(recipe, dy, w if ctx.again else quantized(recipe.dgrad.right, w, compute), offsets, compute)
        if ctx.needs_input_grad[1]:
            dw = wgrad(recipe, dy, x, offsets, compute).to(ctx.dtype)
        return dx, dw, None, None, None


def forward(recipe: Recipe, x: Tensor, right: Tensor, offsets: Tensor | None, compute: torch.dtype) -> Tensor:
    """x (T, K), ``right`` what W (N, K) became -> y (T, N) in x's dtype."""
    return times(quantized(recipe.forward.left, x, compute, offsets), right, offsets).to(x.dtype)


def dgrad(recipe: Recipe, dy: Tensor, right: Tensor, offsets: Tensor | None, compute: torch.dtype) -> Tensor:
    """dy (T, N), ``right`` what W (N, K) became -> dx (T, K) in dy's dtype."""
    return times(quantized(recipe.dgrad.left, dy, compute, offsets), right.transpose(-2, -1), offsets).to(dy.dtype)


def wgrad(recipe: Recipe, dy: Tensor, x: Tensor, offsets: Tensor | None, compute: torch.dtype) -> Tensor:
    """dy (T, N), x (T, K) -> dW (N, K), or (E, N, K), in ``compute``."""
    left = quantized(recipe.wgrad.left, dy, compute, offsets)
    right = quantized(recipe.wgrad.right, x, compute, offsets)
    return left.T @ right if offsets is None else grouped_gemm.outer(left, right, offsets)


def quantized(scaling: Scaling | None, x: Tensor, compute: torch.dtype, offsets: Tensor | None = None) -> Tensor:
    """What x becomes, in ``compute``; with ``offsets``, boxes of several rows begin anew with each expert."""
    if scaling is None:
        return x.to(compute)
    if offsets is None or scaling.box[0] <= 1:  # one row, or all of them
        return scaling(x).to(compute)
    return along_groups(scaling, x, offsets).to(compute)


def times(a: Tensor, b: Tensor, offsets: Tensor | None) -> Tensor:
    """a (T, K), b (N, K) -> (T, N); by expert where b is (E, N, K)."""
    return a @ b.T if offsets is None else grouped_gemm.product(a, b, offsets)
