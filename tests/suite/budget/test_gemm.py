"""A product's error by source: the quantised operands are the recipe's, and each source adds what it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from v3bench.model_ref import precision
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.formats import E4M3
from v3bench.model_ref.precision import PLAIN, RECIPES, Operands
from v3bench.model_ref.scaling import Scaling
from v3bench.suite.budget import gemm
from v3bench.suite.budget.distributions import draw
from v3bench.suite.budget.error import error
from v3bench.suite.budget.gemm import BOTH, LEFT, NEVER, RIGHT, SOURCES, SUM_NEVER, SUM_PROMOTED, oriented, sources


@pytest.fixture
def sides():
    return draw("student-t", 40, 300), draw("gaussian", 130, 300, 1)


def made(recipe, x, w, dy):
    """The recipe's three products of a layer, (T, N), (T, K), (N, K), in float64."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = precision.product(x, w, None, recipe=recipe, compute=torch.float64)
    y.backward(dy)
    return {"forward": y.detach(), "dgrad": x.grad, "wgrad": w.grad}


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "bf16"])
def test_both_quantised_is_the_recipe_s_product(name):
    T, N, K, rows = 150, 140, 260, 8
    x, w, dy = draw("gaussian", T, K), draw("gaussian", N, K, 1), draw("outlier-tokens", T, N, 2)
    recipe = replace(RECIPES[name], kept=None)
    ours = {"forward": (x, w), "dgrad": (dy, w.T), "wgrad": (dy.T, x.T)}
    for product, got in made(recipe, x, w, dy).items():
        a, b = (side.contiguous() for side in ours[product])
        want = error(got[:rows], a[:rows].double() @ b.double().T)
        found = sources(oriented(recipe, product), a, b, rows=rows)
        assert found[BOTH] == pytest.approx(want, rel=1e-3)


def test_without_quantisers_operands_are_rounded_to_bfloat16(sides):
    found = sources(PLAIN, *sides)
    a, b = (side.bfloat16().double() for side in sides)
    want = sides[0].double() @ sides[1].double().T
    assert found[BOTH] == pytest.approx(error(a @ b.T, want))
    assert set(found) == {LEFT, RIGHT, BOTH}  # sums in few bits are FP8's


@pytest.mark.parametrize("name", ["fp8", "fp8-ue8m0", "fp8-per-token", "fp8-per-tensor"])
def test_errors_of_both_sides_add_up_in_squares(name):
    a, b = draw("gaussian", 64, 1024), draw("gaussian", 128, 1024, 1)
    found = sources(oriented(RECIPES[name], "forward"), a, b)
    assert tuple(found) == SOURCES
    together = (found[LEFT].relative ** 2 + found[RIGHT].relative ** 2) ** 0.5
    assert found[BOTH].relative == pytest.approx(together, rel=0.03)


@pytest.mark.parametrize("name", ["fp8", "fp8-per-token", "fp8-per-tensor"])
def test_sums_in_few_bits_err_more_where_never_promoted(name, monkeypatch):
    """With as many bits as there are, there is no such error."""
    a, b = draw("gaussian", 6, 2048).abs(), draw("gaussian", 128, 2048, 1).abs()
    operands = oriented(RECIPES[name], "forward")
    found = sources(operands, a, b)
    assert 1e-5 < found[SUM_PROMOTED].relative < 1e-3
    assert found[SUM_NEVER].relative > 20 * found[SUM_PROMOTED].relative
    assert found[NEVER].relative > found[BOTH].relative  # all sums too small: on top of what quantising does
    few = gemm.tensor_core
    monkeypatch.setattr(gemm, "tensor_core", lambda left, right: few(left, right, 40))
    found = sources(operands, a, b)
    assert found[SUM_PROMOTED].relative < 1e-6
    assert found[SUM_NEVER].relative < 1e-6
    assert found[NEVER] == pytest.approx(found[BOTH], rel=1e-4)


def test_rows_are_those_of_the_whole(sides):
    operands = oriented(RECIPES["fp8-per-tensor"], "forward")
    whole = operands.left(sides[0]).double() @ operands.right(sides[1]).double().T
    want = error(whole[:5], (sides[0].double() @ sides[1].double().T)[:5])
    assert sources(operands, *sides, rows=5)[BOTH] == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("K", [1, 100, 128, 129])
def test_sums_of_any_length(K):
    found = sources(oriented(RECIPES["fp8"], "forward"), draw("gaussian", 3, K), draw("gaussian", 5, K, 1))
    assert all(0 <= one.relative < 0.15 for one in found.values())
    assert found[SUM_NEVER].relative < 1e-3
    assert found[BOTH].relative > 0.005


def test_what_the_model_of_promotion_cannot_do_is_refused(sides):
    odd = Scaling(E4M3, (1, 64))
    with pytest.raises(BadInput, match="a box of 64 columns; expected 128 or all of them"):
        sources(Operands(odd, odd), *sides)
    with pytest.raises(BadInput, match="product 'dgard' is unknown"):
        oriented(RECIPES["fp8"], "dgard")
