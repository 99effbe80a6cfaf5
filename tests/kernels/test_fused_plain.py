"""RMSNorm and SwiGLU in Triton, forward and backward, against the definitions and autograd of them in float64."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels import norm, norm_fused, swiglu, swiglu_fused
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.check import poisoned

WIDE = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", [(5, 300), (2, 3, 64), (1, 1), (7,)])
def test_rms_norm_and_its_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (torch.randn(shape) * torch.randn(*shape[:-1], 1).exp()).to(dtype).requires_grad_()
    weight, along = torch.randn(shape[-1], requires_grad=True), torch.randn(shape).to(dtype)
    with poisoned():
        y = norm_fused.rms_norm(x, weight, 1e-3)
        dx, dw = torch.autograd.grad(y, (x, weight), along)
    exact = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    want = norm.reference(*exact, 1e-3)
    want_dx, want_dw = torch.autograd.grad(want, exact, along.double())
    assert (y.dtype, dx.dtype, dw.dtype) == (dtype, dtype, torch.float32)
    # One rounding to the dtype, and in float32 a sum over the row of some ten.
    roundings = 10 if dtype == torch.float32 else 1
    assert rounding_error(y.detach(), want.detach(), dtype, roundings) <= 1
    # dx is a difference of two terms of its own size: compared with the size of the gradient that came in.
    size = (along.double() * weight.detach().double()).norm() / x.detach().double().norm(dim=-1).min()
    allowed = torch.finfo(dtype).eps * roundings**0.5 * max(float(want_dx.norm()), float(size))
    assert (dx.double() - want_dx).norm() <= allowed
    assert rounding_error(dw[None], want_dw[None], torch.float32, 30) <= 1
    with torch.no_grad():
        assert torch.equal(norm_fused.rms_norm(x, weight, 1e-3), y)


def test_the_weights_gradient_is_the_same_at_every_run_and_over_many_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_fused, "STRIPS", 9)
    x, weight = torch.randn(47, 16), torch.randn(16, requires_grad=True)  # the last strip has fewer rows
    runs = [torch.autograd.grad(norm_fused.rms_norm(x, weight, 1e-6).sum(), weight)[0] for _ in range(2)]
    assert torch.equal(*runs)
    (want,) = torch.autograd.grad(norm.reference(x.double(), weight.double(), 1e-6).sum(), weight)
    torch.testing.assert_close(runs[0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", [(5, 300), (2, 3, 64), (1, 2), (8,)])
def test_swiglu_and_its_gradient(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    gate_up = (torch.randn(shape) * 3).to(dtype).requires_grad_()
    along = torch.randn(*shape[:-1], shape[-1] // 2).to(dtype)
    with poisoned():
        y = swiglu_fused.swiglu(gate_up)
        (d,) = torch.autograd.grad(y, gate_up, along)
    exact = gate_up.detach().double().requires_grad_()
    want = swiglu.reference(exact)
    (want_d,) = torch.autograd.grad(want, exact, along.double())
    assert y.dtype == d.dtype == dtype
    roundings = 10 if dtype == torch.float32 else 1
    assert rounding_error(y.detach(), want.detach(), dtype, roundings) <= 1
    assert rounding_error(d, want_d, dtype, roundings) <= 1
    with torch.no_grad():
        assert torch.equal(swiglu_fused.swiglu(gate_up), y)
        rows, grad = gate_up.view(-1, shape[-1]), along.view(-1, shape[-1] // 2)
        again = torch.full_like(grad, float("nan"))  # the activation made again beside its gradient
        assert torch.equal(swiglu_fused.gradient(grad, rows, again).view(shape), d)
        assert torch.equal(again.view(y.shape), y)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, under the interpreter
def test_a_row_with_nan_spoils_no_other_row() -> None:
    x, weight = torch.randn(4, 64), torch.randn(64)
    clean, bad = norm_fused.rms_norm(x, weight, 1e-6), x.clone()
    bad[1, 5], bad[2, 40] = float("nan"), float("inf")
    got = norm_fused.rms_norm(bad, weight, 1e-6)
    assert torch.equal(got[[0, 3]], clean[[0, 3]])
    assert got[1].isnan().all()
    assert got[2, 40].isnan()
    got = swiglu_fused.swiglu(bad)
    assert torch.equal(got.isnan().nonzero(), torch.tensor([[1, 5]]))
    assert got[2, 8].isinf()
    assert torch.equal(got[[0, 3]], swiglu_fused.swiglu(x)[[0, 3]])


def test_strided_expanded_and_empty_input() -> None:
    wide, weight = torch.randn(6, 5, 48, requires_grad=True), torch.ones(32, requires_grad=True)
    x = wide.transpose(0, 1)[..., 8:40]
    y = norm_fused.rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(y, norm.reference(x, weight, 1e-6))
    for out in (y, swiglu_fused.swiglu(x)):
        grads = torch.autograd.grad(out.sum(), wide)  # an expanded gradient
        assert grads[0].shape == wide.shape
    assert norm_fused.rms_norm(torch.empty(0, 32), weight.detach(), 1e-6).shape == (0, 32)
    empty = torch.empty(0, 32, requires_grad=True)
    dx, dw = torch.autograd.grad(norm_fused.rms_norm(empty, weight, 1e-6).sum(), (empty, weight))
    assert dx.shape == (0, 32)
    assert (dw == 0).all()
    assert swiglu_fused.swiglu(torch.empty(2, 0, 32)).shape == (2, 0, 16)


def test_meta_tensors_give_shapes_without_work() -> None:
    x = torch.empty(4, 1024, 7168, device="meta", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.empty(7168, device="meta", dtype=torch.bfloat16, requires_grad=True)
    y = norm_fused.rms_norm(x, weight, 1e-6)
    assert y.shape == x.shape
    dx, dw = torch.autograd.grad(y, (x, weight), y)
    assert (dx.shape, dw.shape) == (x.shape, weight.shape)
    assert swiglu_fused.swiglu(x).shape == (4, 1024, 3584)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm_fused.rms_norm(torch.zeros(2, 8).int(), torch.zeros(8), 0.1), "rms_norm: x is int32"),
        (
            lambda: norm_fused.rms_norm(torch.zeros(2, 8), torch.zeros(7), 0.1),
            r"weight has shape \(7,\), expected \(8\)",
        ),
        (lambda: norm_fused.rms_norm(torch.zeros(2, 8), torch.zeros(8), float("inf")), "eps is inf"),
        (lambda: norm_fused.rms_norm(torch.zeros(2, 16385), torch.zeros(16385), 0.1), "expected 1 to 16384"),
        (lambda: norm_fused.rms_norm(torch.zeros(()), torch.zeros(1), 0.1), r"x has shape \(\)"),
        (lambda: swiglu_fused.swiglu(torch.zeros(2, 8).double()), "swiglu: gate_up is float64"),
        (lambda: swiglu_fused.swiglu(torch.zeros(2, 7)), "gate_up has 7 columns"),
    ],
)
def test_bad_input_is_one_clear_error(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
