"""RMSNorm and the products that read it: in float64 and in FP8, there against float64 of the same codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from v3bench.kernels import (
    block_quant,
    dequantize,
    fp8_gemm,
    fp8_gemm_wgrad,
    fp8_linear,
    fp8_norm_linear,
    norm,
    norm_linear,
    norm_quantize,
    quantize,
    tables,
)
from v3bench.kernels.fp8_norm_linear import fp8_norm_linear as fp8
from v3bench.suite.meter.closeness import rounding_error

CONFIGS: dict[str, Any] = {
    "quantize_tiles": {"ROWS": 4, "num_warps": 4},
    "quantize_blocks": {"num_warps": 4},
    "rms_norm_quantize": {"num_warps": 4},
    "fp8_gemm": fp8_gemm.few(64, 16, 4, 3, 1),
    "fp8_gemm_wgrad": fp8_gemm_wgrad.many(32, 32, 2, 4, 3),
}
SIZES, K, EPS = (144, 48), 208, 1e-3  # neither a multiple of 128


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that fit the shapes here, in place of the launch tables'."""
    monkeypatch.setattr(tables, "choose", lambda op, device, **shape: CONFIGS[op])


def tensors(*lead: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """x, the norm's weight, two matrices, their biases; leaves that want a gradient."""
    x, weight = torch.randn(*lead, K), 1 + 0.3 * torch.randn(K)
    made = [x, weight, *(torch.randn(n, K) * 0.05 for n in SIZES), *(torch.randn(n) for n in SIZES)]
    x, weight, *rest = (t.to(dtype).requires_grad_() for t in made)
    return x, weight, rest[:2], rest[2:]


def coded(rows: Tensor, clamp: float) -> Tensor:
    """Rows in float64 after quantisation."""
    return dequantize.reference_tiles(*quantize.reference_tiles(rows.detach(), clamp=clamp), torch.float64)


def blocks(w: Tensor) -> Tensor:
    """w in float64 after quantisation."""
    return block_quant.reference(*quantize.reference_blocks(w.detach()), torch.float64)


def off(got: Tensor | None, want: Tensor) -> float:
    """Relative error of the whole."""
    assert got is not None
    return float((got.double() - want).norm() / want.norm())


def test_plain_forms_are_one_function_in_float64() -> None:
    x, weight, weights, biases = tensors(2, 3, dtype=torch.float64)
    for given in (None, biases, (None, biases[1])):
        want = norm_linear.reference(x, weight, EPS, weights, given)
        got = norm_linear.norm_linear(x, weight, EPS, weights, given)
        for a, b, w in zip(got, want, weights, strict=True):
            assert a.shape == (2, 3, len(w))
            torch.testing.assert_close(a, b)
    n = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight
    torch.testing.assert_close(want[0], n @ weights[0].T)
    torch.testing.assert_close(want[1], n @ weights[1].T + biases[1])


def test_plain_gradients_are_the_definitions_in_float64() -> None:
    x, weight, weights, biases = tensors(5, dtype=torch.float64)
    grads = [torch.randn(5, n, dtype=torch.float64) for n in SIZES]
    leaves = (x, weight, *weights, *biases)
    want = torch.autograd.grad(norm_linear.reference(x, weight, EPS, weights, biases), leaves, grads)
    got = torch.autograd.grad(norm_linear.norm_linear(x, weight, EPS, weights, biases), leaves, grads)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lead", [(5,), (2, 3), ()], ids=str)
def test_fp8_products_equal_float64s_of_the_same_codes(lead: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, weights, biases = tensors(*lead, dtype=dtype)
    with torch.no_grad():
        got = fp8(x, weight, EPS, weights, (None, biases[1]))
        rows = norm_quantize.rms_norm_quantize(x.reshape(-1, K), weight, EPS)
        n = dequantize.reference_tiles(*rows, torch.float64)
    for y, w, bias in zip(got, weights, (torch.zeros(()), biases[1]), strict=True):
        assert (y.shape, y.dtype) == ((*lead, len(w)), dtype)
        # bfloat16: the product's rounding, the sum's. float32: sums of 208 terms, in another order.
        want = n @ blocks(w).T + bias.detach().double()
        assert rounding_error(y.view(-1, len(w)), want, dtype, 2 if dtype == torch.bfloat16 else 20) < 0.6
    want_all = fp8_norm_linear.reference(x, weight, EPS, weights, (None, biases[1]))
    for y, whole in zip(got, want_all, strict=True):
        assert off(y, whole.detach().double()) < 1e-2  # one code that falls the other way is 1/16/8 of a row
    for y, again in zip(got, fp8(x, weight, EPS, weights, (None, biases[1])), strict=True):
        assert again.requires_grad
        assert torch.equal(again, y)  # training makes the same bits


def test_fp8_gradients_equal_float64s_of_the_same_codes() -> None:
    x, weight, weights, biases = tensors(2, 3)
    grads = [torch.randn(2, 3, n) for n in SIZES]
    torch.autograd.backward(fp8(x, weight, EPS, weights, biases), grads)
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    n, dn = norm.reference(*exact, EPS), torch.zeros(6, K, dtype=torch.float64)
    for dy, w, bias in zip(grads, weights, biases, strict=True):
        rows = dy.view(6, -1)
        dn += coded(rows, quantize.GUARD) @ blocks(w)
        columns = n.detach().float().view(6, K)
        want = coded(rows.T, quantize.GUARD) @ coded(columns.T, quantize.ACTIVATION).T
        assert off(w.grad, want) < 2e-3  # a code of n that falls the other way
        assert off(bias.grad, rows.double().sum(0)) < 1e-6
    for leaf, want in zip((x, weight), torch.autograd.grad(n, exact, dn.view(2, 3, K)), strict=True):
        assert off(leaf.grad, want) < 1e-6


def test_one_pass_normalises_and_quantises_for_all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, weights, _ = tensors(3)
    passes = []
    one = norm_quantize.rms_norm_quantize
    monkeypatch.setattr(fp8_norm_linear, "rms_norm_quantize", lambda *a, **k: passes.append(k) or one(*a, **k))
    monkeypatch.setattr(fp8_linear, "quantize_tiles", lambda *a, **k: pytest.fail("quantised once more"))
    fp8(x, weight, EPS, weights)
    with torch.no_grad():
        fp8(x, weight, EPS, weights)
    assert passes == [{"rows": True, "rstd": True}, {}]  # values are written for training only


def test_only_the_gradients_asked_for_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, weights, biases = tensors(3)
    frozen = [w.detach() for w in weights]
    with monkeypatch.context() as patch:
        patch.setattr(fp8_linear, "fp8_gemm_wgrad", lambda *a, **k: pytest.fail("nobody asked for it"))
        sum(y.sum() for y in fp8(x, weight, EPS, frozen)).backward()  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr(fp8_linear, "transpose_weights", lambda *a, **k: pytest.fail("nobody asked for it"))
        fp8(x.detach(), weight.detach(), EPS, weights, biases)[0].sum().backward()
    assert x.grad is not None
    assert weights[0].grad is not None
    assert weights[1].grad is None or not weights[1].grad.any()


def test_codes_come_from_the_cache_that_is_given() -> None:
    x, weight, weights, _ = tensors(3)
    cache = fp8_linear.WeightCache()
    with torch.no_grad():
        first = fp8(x, weight, EPS, weights, quantize=cache)
        assert len(cache.kept) == 2
        cache.quantize = lambda w: pytest.fail("made again")
        assert torch.equal(fp8(x, weight, EPS, weights, quantize=cache)[1], first[1])


def test_no_tokens_and_meta_tensors() -> None:
    x, weight, weights, _ = tensors(2, 0)
    y, _ = fp8(x, weight, EPS, weights)
    y.sum().backward()
    assert y.shape == (2, 0, SIZES[0])
    assert weight.grad is not None
    assert (weight.grad == 0).all()
    x, weight, weights, _ = tensors(2, 3)
    meta = [t.detach().to("meta").requires_grad_() for t in (x, weight, *weights)]
    y, _ = fp8(meta[0], meta[1], EPS, meta[2:])
    y.sum().backward()
    assert y.shape == (2, 3, SIZES[0])
    assert meta[0].grad is not None


RIGHT = {
    "x": torch.zeros(2, K),
    "norm_weight": torch.zeros(K),
    "eps": EPS,
    "weights": [torch.zeros(n, K) for n in SIZES],
}
FIRST = RIGHT["weights"][0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, 192)}, r"fp8_norm_linear: x has shape \(2, 192\), expected \(any, 208\)"),
        ({"x": torch.zeros(2, K).half()}, "fp8_norm_linear: x is float16, expected bfloat16 or float32"),
        ({"x": torch.tensor(1.0)}, r"fp8_norm_linear: x has shape \(\), expected \(208\)"),
        ({"norm_weight": torch.zeros(7)}, r"fp8_norm_linear: norm_weight has shape \(7,\), expected \(208\)"),
        ({"eps": float("nan")}, "eps is nan, expected a finite number"),
        ({"weights": [FIRST, torch.zeros(8, 192)]}, r"fp8_norm_linear: x has shape .*, expected \(any, 192\)"),
        ({"weights": [FIRST, FIRST.double()]}, r"fp8_norm_linear: weights\[1\] is float64"),
        ({"weights": [torch.zeros(4, 200)], "x": torch.zeros(2, 200)}, r"weights\[0\] has 200 inputs, expected a mult"),
        ({"weights": [torch.zeros(4, 16400)], "x": torch.zeros(2, 16400)}, "expected 1 to 16384"),
        ({"biases": [None, torch.zeros(7)]}, r"fp8_norm_linear: biases\[1\] has shape \(7,\), expected \(48\)"),
        ({"biases": [None]}, "fp8_norm_linear: biases has 1 entries, expected 2"),
        ({"weights": FIRST}, "fp8_norm_linear: weights is a tensor, expected a sequence of matrices"),
        ({"weights": ()}, "fp8_norm_linear: weights is empty"),
        (
            {"weights": [FIRST, torch.zeros(130, K)], "norm_weight": torch.zeros(K, requires_grad=True)},
            r"weights\[1\] has 130 outputs, expected a multiple of 16 for the gradient of x",
        ),
    ],
)
def test_bad_input_is_one_clear_error(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fp8(**{**RIGHT, **changed})


def test_plain_bad_input_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="norm_linear: biases has 1 entries, expected 2"):
        norm_linear.norm_linear(**RIGHT, biases=[None])
    with pytest.raises(ValueError, match="norm_linear: weights is a tensor"):
        norm_linear.norm_linear(**{**RIGHT, "weights": FIRST})
