"""The emulated recipes: their three products against the kernels' definitions, by expert, and what stays out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.kernels import fp8_linear, quantize
from v3bench.model_ref import precision
from v3bench.model_ref.formats import E4M3, E5M6
from v3bench.model_ref.model import Model
from v3bench.model_ref.precision import BF16, FP8, RECIPES, Operands, Recipe
from v3bench.model_ref.scaling import GUARD, Scaling

from .tiny import config


def normal(*shape: int, seed: int = 0, std: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std


def gradients(product, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """y, dx, dW of product(x, w)."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = product(x, w)
    y.backward(dy)
    return y.detach(), x.grad, w.grad


def emulated(recipe: Recipe, **rest):
    return lambda x, w: precision.product(x, w, recipe=recipe, **rest)


def undone(codes: torch.Tensor, scales: torch.Tensor, *box: int) -> torch.Tensor:
    spread = scales.repeat_interleave(box[0], 0)[: len(codes)].repeat_interleave(box[1], 1)[:, : codes.shape[1]]
    return codes.float() * spread


@pytest.mark.parametrize("T, N, K", [(130, 48, 300), (1, 128, 128), (256, 257, 64)])
def test_v3_s_three_products_are_those_of_the_kernels_definitions(T, N, K):
    x, w, dy = normal(T, K), normal(N, K, seed=1), normal(T, N, seed=2, std=1e-6)
    y, dx, dw = gradients(emulated(FP8), x, w, dy)
    weight = undone(*quantize.reference_blocks(w), 128, 128)
    torch.testing.assert_close(y, fp8_linear.reference(x, w), rtol=1e-5, atol=1e-4)
    rows = undone(*quantize.reference_tiles(dy, clamp=GUARD), 1, 128)
    torch.testing.assert_close(dx, rows @ weight, rtol=1e-5, atol=1e-10)
    columns = undone(*quantize.reference_tiles(dy.T.contiguous(), clamp=GUARD), 1, 128)
    inputs = undone(*quantize.reference_tiles(x.T.contiguous()), 1, 128)
    torch.testing.assert_close(dw, columns @ inputs.T, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_quantisation_the_products_are_plain_ones(dtype):
    x, w, dy = normal(5, 12).to(dtype), normal(7, 12, seed=1).to(dtype), normal(5, 7, seed=2).to(dtype)
    for got, want in zip(gradients(emulated(BF16), x, w, dy), gradients(F.linear, x, w, dy), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got, want)


# Of the others, boxes of several rows span experts, or hold many columns: their sums differ by expert on purpose.
@pytest.mark.parametrize("name", ["bf16", "fp8", "fp8-ue8m0", "fp8-e5m2-gradients", "control-1-bit"])
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_a_product_by_expert_is_each_expert_s_own(name, lengths):
    recipe = RECIPES[name]
    offsets = torch.tensor(lengths).cumsum(0).int()
    T, E = sum(lengths), len(lengths)
    x, w, dy = normal(T, 20), normal(E, 8, 20, seed=1), normal(T, 8, seed=2)
    got = gradients(emulated(recipe, offsets=offsets), x, w, dy)
    parts = [gradients(emulated(recipe), *own) for own in zip(x.split(lengths), w, dy.split(lengths), strict=True)]
    for i, join in enumerate((torch.cat, torch.cat, torch.stack)):
        torch.testing.assert_close(got[i], join([part[i] for part in parts]), rtol=1e-5, atol=1e-5)


def test_experts_without_tokens_have_the_gradient_zero_under_every_recipe():
    offsets = torch.tensor([0, 4, 4]).int()
    for recipe in RECIPES.values():
        y, dx, dw = gradients(emulated(recipe, offsets=offsets), normal(4, 16), normal(3, 8, 16, seed=1), normal(4, 8))
        assert bool(y.isfinite().all() and dx.isfinite().all() and dw.isfinite().all())
        assert not dw[0].any()
        assert not dw[2].any()
        assert dw[1].any()


def test_an_empty_batch_has_an_empty_product_and_the_gradient_zero():
    for recipe in RECIPES.values():
        y, dx, dw = gradients(emulated(recipe), torch.zeros(0, 16), normal(8, 16), torch.zeros(0, 8))
        assert (y.shape, dx.shape) == ((0, 8), (0, 16))
        assert not dw.any()


def test_nan_and_infinity_spread_over_their_tile_only():
    x = normal(2, 256)
    x[1, 3] = float("inf")
    y = precision.product(x, normal(4, 256, seed=1), recipe=FP8)
    assert bool(y[1].isnan().all())
    assert bool(y[0].isfinite().all())


def test_what_follows_the_attention_is_kept_in_fewer_bits_for_wgrad_alone():
    x, w, dy = normal(130, 32), normal(16, 32, seed=1), normal(130, 16, seed=2)
    kept = Scaling(E5M6, (1, 128), power_of_two=True)
    assert RECIPES["fp8-e5m6"].after_attention == kept
    y, dx, dw = gradients(emulated(replace(FP8, kept=kept)), x, w, dy)
    plain = gradients(emulated(FP8), x, w, dy)
    assert torch.equal(y, plain[0])
    assert torch.equal(dx, plain[1])
    assert not torch.equal(dw, plain[2])
    assert torch.equal(dw, gradients(emulated(FP8), kept(x), w, dy)[2])

    def layer(site: str):
        return lambda x, w: precision.linear(x, w, site=site, recipe=RECIPES["fp8-e5m6"], compute=torch.float32)

    assert torch.equal(gradients(layer("w_o"), x, w, dy)[2], dw)
    assert torch.equal(gradients(layer(""), x, w, dy)[2], plain[2])


def test_what_was_kept_in_fp8_is_quantised_twice_and_errs_more():
    x, w, dy = normal(256, 128), normal(16, 128, seed=1), normal(256, 16, seed=2)
    exact = dy.T @ x
    V3 = RECIPES["fp8-kept"]
    once, twice = (gradients(emulated(precision.at(recipe)), x, w, dy) for recipe in (FP8, V3))
    assert torch.equal(once[0], twice[0])
    assert torch.equal(once[1], twice[1])
    assert (once[2] - exact).norm() < (twice[2] - exact).norm()
    assert V3.kept is not None
    assert torch.equal(twice[2], gradients(emulated(FP8), V3.kept(x), w, dy)[2])
    assert precision.at(V3, "w_o").kept == V3.after_attention != V3.kept


def test_blocks_of_gradients_do_not_span_experts():
    dy = torch.cat((torch.full((64, 128), 1e-4), torch.full((64, 128), 100.0)))
    offsets = torch.tensor([64, 128]).int()
    w = torch.eye(128).expand(2, 128, 128)
    dx = gradients(emulated(RECIPES["fp8-block-gradients"], offsets=offsets), normal(128, 128), w, dy)[1]
    torch.testing.assert_close(dx[:64], dy[:64], rtol=0.07, atol=0)


@pytest.mark.parametrize("site", sorted(precision.HIGH))
def test_what_stays_out_of_fp8_is_not_quantised(site):
    x, w, b = normal(3, 4, 16), normal(8, 16, seed=1), normal(8, seed=2)
    given = {"recipe": FP8, "compute": torch.float32}
    torch.testing.assert_close(precision.linear(x, w, b, site=site, **given), F.linear(x, w, b))
    assert not torch.allclose(precision.linear(x, w, b, **given), F.linear(x, w, b), rtol=1e-4)


def test_powers_of_two_make_a_product_in_bfloat16_exact():
    recipe = RECIPES["fp8-ue8m0"]
    x, w = normal(9, 256), normal(130, 256, seed=1)
    assert isinstance(recipe.forward.left, Scaling)
    for scaling, t in ((recipe.forward.left, x), (recipe.forward.right, w)):
        assert torch.equal(scaling(t).bfloat16().float(), scaling(t))


def test_fewer_bits_err_more_and_finer_boxes_less():
    x, w = normal(64, 512), normal(128, 512, seed=1)
    x[:, 5] *= 1000
    exact = x @ w.T

    def error(name: str) -> float:
        return float((precision.product(x, w, recipe=RECIPES[name]) - exact).norm() / exact.norm())

    assert error("bf16") < error("fp8") < error("control-2-bit") < error("control-1-bit")
    assert error("fp8") < error("fp8-per-tensor")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_the_whole_model(name):
    torch.manual_seed(0)
    model = Model(config(num_nextn_predict_layers=1), ops=precision.ops(RECIPES[name]), dtype=torch.float32)
    loss = model.loss(torch.randint(61, (2, 17)))
    loss.total.backward()
    for label, parameter in model.named_parameters():
        assert parameter.grad is not None, label
        assert bool(parameter.grad.isfinite().all()), label


def test_recipes_are_told_apart_by_name_and_by_value():
    assert len(set(RECIPES.values())) == len(RECIPES)
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    assert RECIPES["bf16"].forward == Operands()
    assert RECIPES["fp8"].dgrad.left == Scaling(E4M3, (1, 128))


def test_the_kernels_refuse_a_recipe_that_they_do_not_have():
    with pytest.raises(ValueError, match="control-1-bit"):
        precision.on_kernels(RECIPES["control-1-bit"])
