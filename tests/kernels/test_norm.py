"""RMSNorm: the launcher is the definition, on every path it has, forward and backward."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels.norm import reference, rms_norm


@pytest.mark.parametrize("shape", [(1, 7), (3, 5, 16), (0, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grad", [False, True])
def test_launcher_equals_the_definition(shape: tuple[int, ...], dtype: torch.dtype, grad: bool) -> None:
    x, weight = torch.randn(shape, dtype=dtype) * 1e-2, torch.randn(shape[-1], dtype=dtype)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(rms_norm(x, weight, 1e-4), reference(x, weight, 1e-4))


def test_bfloat16_is_computed_in_float32() -> None:
    x, weight = torch.randn(4, 64).bfloat16() * 1e-3, torch.randn(64).bfloat16()
    want = reference(x.double(), weight.double(), 1e-6)
    for got in (rms_norm(x, weight, 1e-6), reference(x, weight, 1e-6)):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.double(), want, rtol=1.6e-2, atol=1e-3)


def test_eps_keeps_a_zero_row_finite() -> None:
    assert torch.equal(rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-6), torch.zeros(2, 8))


def test_gradients_are_those_of_the_definition() -> None:
    x, weight = torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-2), (x.requires_grad_(), weight.requires_grad_()))


def test_a_second_derivative_is_refused() -> None:
    x, weight = torch.randn(2, 6, requires_grad=True), torch.randn(6)
    (grad,) = torch.autograd.grad(rms_norm(x, weight, 1e-5).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_the_default_device_does_not_matter() -> None:
    x, weight = torch.randn(2, 6), torch.randn(6)
    with torch.device("meta"):
        got = rms_norm(x, weight, 7e-5)  # an eps that no other test has made a tensor of
    torch.testing.assert_close(got, reference(x, weight, 7e-5))


def test_what_inference_mode_made_serves_training() -> None:
    x, weight = torch.randn(2, 6), torch.randn(6)
    with torch.inference_mode():
        rms_norm(x, weight, 3e-5)
    rms_norm(x.requires_grad_(), weight.requires_grad_(), 3e-5).sum().backward()
    assert x.grad is not None
