"""The FP8 linear layer: its three products equal float64's of the same operands; a cache follows its weights."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor
from v3bench.kernels import block_quant, checks, dequantize, fp8_gemm, fp8_gemm_wgrad, fp8_linear, quantize, transpose
from v3bench.suite.meter.closeness import rounding_error

CONFIGS = {"fp8_gemm": fp8_gemm.few(64, 16, 4, 3, 1), "fp8_gemm_wgrad": fp8_gemm_wgrad.many(32, 32, 2, 4, 3)}
N, K = 144, 208  # neither a multiple of 128


def layer(x: Tensor, w: Tensor, bias: Tensor | None = None, **given: Any) -> Tensor:
    return fp8_linear.fp8_linear(x, w, bias, configs=CONFIGS, **given)


def tensors(*lead: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    x, w, bias = torch.randn(*lead, K), torch.randn(N, K) * 0.05, torch.randn(N)
    return tuple(t.to(dtype).requires_grad_() for t in (x, w, bias))  # type: ignore[return-value]


def tiles(x: Tensor, clamp: float) -> Tensor:
    """x in float64 after quantisation along its rows."""
    return dequantize.reference_tiles(*quantize.reference_tiles(x.detach(), clamp=clamp), torch.float64)


def blocks(w: Tensor) -> Tensor:
    """w in float64 after quantisation."""
    return block_quant.reference(*quantize.reference_blocks(w.detach()), torch.float64)


@pytest.mark.parametrize("lead", [(5,), (2, 3), ()], ids=str)
def test_three_products_equal_float64s_of_the_same_codes(lead: tuple[int, ...]) -> None:
    x, w, bias = tensors(*lead)
    y = layer(x, w, bias)
    dy = torch.randn(*lead, N).bfloat16()
    y.backward(dy)
    assert y.shape == (*lead, N)
    assert x.grad is not None
    assert w.grad is not None
    assert bias.grad is not None
    rows, drows = x.reshape(-1, K), dy.reshape(-1, N)
    want = tiles(rows, quantize.ACTIVATION) @ blocks(w).T + bias.detach().double()
    assert rounding_error(y.detach().view(-1, N), want, torch.bfloat16, 2) < 0.6  # the product's rounding, the sum's
    want = tiles(drows, quantize.GUARD) @ blocks(w)
    assert rounding_error(x.grad.view(-1, K), want, torch.bfloat16) < 0.6
    want = tiles(drows.T, quantize.GUARD) @ tiles(rows.T, quantize.ACTIVATION).T
    assert rounding_error(w.grad, want, torch.bfloat16) < 0.6
    assert rounding_error(bias.grad, drows.double().sum(0), torch.bfloat16) < 0.6


def test_float32_gradients_are_those_of_the_linear_layer_up_to_e4m3() -> None:
    """Two e4m3 operands of 2.6 % each: what is turned, or scaled, wrongly is off by far more."""
    given = tensors(40, dtype=torch.float32)
    dy = torch.randn(40, N)
    layer(*given).backward(dy)
    found = [t.grad.clone() for t in given if t.grad is not None]
    for t in given:
        t.grad = None
    torch.nn.functional.linear(*given).backward(dy)
    for got, t in zip(found, given, strict=True):
        assert t.grad is not None
        assert (got - t.grad).norm() < 0.05 * t.grad.norm()


def test_small_gradients_are_not_flushed() -> None:
    x, w, _ = tensors(4, dtype=torch.float32)
    dy = torch.randn(4, N) * 1e-9
    layer(x, w).backward(dy)
    assert x.grad is not None
    assert w.grad is not None
    assert (x.grad - dy @ w.detach()).norm() < 0.05 * (dy @ w.detach()).norm()
    assert (w.grad - dy.T @ x.detach()).norm() < 0.05 * (dy.T @ x.detach()).norm()


def test_only_the_gradients_asked_for_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, bias = tensors(3)

    def never(*args: Any, **given: Any) -> Any:
        raise AssertionError("a product that nobody asked for")

    with monkeypatch.context() as patch:
        patch.setattr(fp8_linear, "fp8_gemm_wgrad", never)
        layer(x, w.detach(), bias.detach()).sum().backward()  # the gradient of a sum: an expanded scalar
    with monkeypatch.context() as patch:
        patch.setattr(fp8_linear, "transpose_weights", never)
        layer(x.detach(), w, None).sum().backward()
    assert x.grad is not None
    assert w.grad is not None
    want = tiles(torch.ones(3, N), quantize.GUARD) @ blocks(w)
    assert rounding_error(x.grad, want, torch.bfloat16) < 0.6


def test_without_gradients_it_gives_the_same_bits() -> None:
    x, w, bias = tensors(3)
    with torch.no_grad():
        free = layer(x, w, bias)
    assert not free.requires_grad
    assert torch.equal(free, layer(x, w, bias).detach())
    assert rounding_error(free, fp8_linear.reference(x.detach(), w.detach(), bias.detach()), torch.bfloat16) < 1


def test_no_tokens_have_no_result_and_zero_gradients() -> None:
    x, w, bias = tensors(2, 0)
    y = layer(x, w, bias)
    y.sum().backward()
    assert y.shape == (2, 0, N)
    assert w.grad is not None
    assert (w.grad == 0).all()


def test_meta_tensors_give_shapes_without_work() -> None:
    x, w = torch.empty(2, 3, K, device="meta", dtype=torch.bfloat16), torch.empty(N, K, device="meta")
    x.requires_grad_()
    y = fp8_linear.fp8_linear(x, w.requires_grad_())
    y.sum().backward()
    assert y.shape == (2, 3, N)
    assert w.grad is not None
    assert w.grad.shape == (N, K)


class Counting:
    """quantize_blocks, counted."""

    calls = 0

    def __call__(self, w: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return quantize.quantize_blocks(w)


def test_a_cache_quantises_each_state_of_a_weight_once() -> None:
    counting = Counting()
    cache = fp8_linear.WeightCache(counting)
    x, w, _ = tensors(2)
    other = torch.randn(N, K)
    with torch.no_grad():
        before = layer(x, w, quantize=cache)
        assert torch.equal(layer(x, w, quantize=cache), before)
        layer(x, other, quantize=cache)
        assert counting.calls == 2
        w.mul_(2)
        assert torch.equal(layer(x, w, quantize=cache), layer(x, w))
        assert counting.calls == 3
        w.data = w.data * 3  # other memory, the same version
        assert torch.equal(layer(x, w, quantize=cache), layer(x, w))
        w.data.mul_(2)  # the write that nothing shows
        assert not torch.equal(layer(x, w, quantize=cache), layer(x, w))
        cache.clear()
        assert torch.equal(layer(x, w, quantize=cache), layer(x, w))


def test_a_cache_forgets_weights_that_are_gone_and_trusts_none_without_a_version() -> None:
    counting = Counting()
    cache = fp8_linear.WeightCache(counting)
    for _ in range(3):
        cache(torch.randn(16, 16))
    gc.collect()
    assert counting.calls == 3
    assert not cache.kept
    with torch.inference_mode():
        w = torch.randn(16, 16)
        cache(w)
        cache(w)
    assert counting.calls == 5


def test_a_cache_keeps_nothing_that_a_graph_has_yet_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    counting, w, known = Counting(), torch.randn(16, 16), torch.randn(16, 16)
    cache = fp8_linear.WeightCache(counting)
    before = cache(known)
    monkeypatch.setattr(fp8_linear, "capturing", lambda w: True)
    cache(w)
    assert cache(known) is before
    monkeypatch.undo()
    cache(w)
    assert counting.calls == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, 192)}, r"fp8_linear: x has shape \(2, 192\), expected \(any, 208\)"),
        ({"x": torch.tensor(1.0)}, r"fp8_linear: x has shape \(\), expected \(208\)"),
        ({"x": torch.zeros(2, K).half()}, "fp8_linear: x is float16, expected bfloat16 or float32"),
        ({"w": torch.zeros(N, K).double()}, "fp8_linear: w is float64"),
        ({"w": torch.zeros(2, N, K)}, r"fp8_linear: w has shape \(2, 144, 208\)"),
        ({"bias": torch.zeros(K)}, r"fp8_linear: bias has shape \(208,\), expected \(144\)"),
        (
            {"x": torch.zeros(2, 200), "w": torch.zeros(N, 200)},
            "fp8_linear: w has 200 inputs, expected a multiple of 16",
        ),
        (
            {"x": torch.zeros(2, K, requires_grad=True), "w": torch.zeros(130, K), "bias": None},
            "fp8_linear: w has 130 outputs, expected a multiple of 16 for the gradient of x",
        ),
    ],
)
def test_bad_input_is_one_clear_error(changed: dict[str, Any], message: str) -> None:
    right = {"x": torch.zeros(2, K), "w": torch.zeros(N, K), "bias": torch.zeros(N)}
    with pytest.raises(ValueError, match=message):
        layer(**{**right, **changed})


CUDA = torch.cuda.is_available() and not checks.missing(checks.HOPPER, torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize(("N", "K"), [(2112, 7168), (24576, 1536), (7168, 2048)])
def test_three_products_on_a_gpu(N: int, K: int) -> None:
    for T in (1, 100, 1000):
        x = torch.randn(T, K, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        w = (torch.randn(N, K, device="cuda") * 0.02).bfloat16().requires_grad_()
        dy = torch.randn(T, N, device="cuda", dtype=torch.bfloat16)
        y = fp8_linear.fp8_linear(x, w)
        y.backward(dy)
        assert x.grad is not None
        assert w.grad is not None
        assert rounding_error(y.detach(), tiles(x, quantize.ACTIVATION) @ blocks(w).T, torch.bfloat16) < 1
        assert rounding_error(x.grad, tiles(dy, quantize.GUARD) @ blocks(w), torch.bfloat16) < 1
        columns = [transpose.reference_columns(t.detach(), clamp=c) for t, c in ((dy, quantize.GUARD), (x, 1e-4))]
        want = fp8_gemm_wgrad.reference(*columns[0], *columns[1], compute=torch.float64)
        assert rounding_error(w.grad, want, torch.bfloat16) < 1
