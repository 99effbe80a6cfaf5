"""The RMSNorm module: weight and eps reach the operation."""

from __future__ import annotations

from dataclasses import replace

import torch
from v3bench.kernels import norm
from v3bench.kernels.ops import TORCH
from v3bench.model_ref.norm import RMSNorm


def test_module_applies_its_weight_and_eps() -> None:
    module = RMSNorm(6, 0.5, TORCH, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.randn(6))
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(module(x), norm.reference(x, module.weight, 0.5))
    assert not torch.allclose(module(x), norm.reference(x, module.weight, 1e-6))


def test_module_uses_the_operation_it_is_given() -> None:
    ops = replace(TORCH, rms_norm=lambda x, weight, eps: x * 0 + eps, norm_linear=lambda *given: given)
    module = RMSNorm(6, 0.25, ops)
    x, weights, biases = torch.ones(2, 6), [torch.ones(3, 6)], [torch.ones(3)]
    assert torch.equal(module(x), torch.full((2, 6), 0.25))
    assert module.linears(x, weights, biases) == (x, module.weight, 0.25, weights, biases)


def test_linears_are_those_of_the_normalised_rows() -> None:
    module = RMSNorm(6, 0.5, TORCH, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.randn(6))
    x, w, v, b = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 4, 6), (3, 6), (5, 6), (5,)))
    first, second = module.linears(x, (w, v), (None, b))
    torch.testing.assert_close(first, module(x) @ w.T)
    torch.testing.assert_close(second, module(x) @ v.T + b)
