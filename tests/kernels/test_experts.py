"""The routed experts: sorted and grouped, or in turn, they are eq. 12's sum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from v3bench.kernels.experts import experts, gather, grouped, reference, single, spread

T, D, E, F, K = 9, 12, 7, 8, 3
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def inputs(tokens: int = T, dtype: torch.dtype = torch.float64) -> Inputs:
    """Expert E-1 is chosen by nobody."""
    x, gates = torch.randn(tokens, D, dtype=dtype), torch.randn(tokens, K, dtype=dtype)
    index = torch.rand(tokens, E - 1).topk(K).indices
    return x, gates, index, torch.randn(E, 2 * F, D, dtype=dtype), torch.randn(E, D, F, dtype=dtype)


@pytest.mark.parametrize("op", [experts, grouped])
@pytest.mark.parametrize("tokens", [1, 2, T])
@pytest.mark.parametrize("grad", [False, True])
def test_equals_the_definition(op: Callable[..., Tensor], tokens: int, grad: bool) -> None:
    args = inputs(tokens)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(op(*args), reference(*args))


@pytest.mark.parametrize(("op", "tokens"), [(single, 1), (grouped, 1), (grouped, T)])
def test_gradients_are_the_definitions(op: Callable[..., Tensor], tokens: int) -> None:
    x, gates, index, w_gate_up, w_down = inputs(tokens)
    leaves = [x.requires_grad_(), gates.requires_grad_(), w_gate_up.requires_grad_(), w_down.requires_grad_()]
    grad = torch.randn(tokens, D, dtype=torch.float64)
    want = torch.autograd.grad(reference(x, gates, index, w_gate_up, w_down), leaves, grad)
    got = torch.autograd.grad(op(x, gates, index, w_gate_up, w_down), leaves, grad)
    torch.testing.assert_close(got, want)
    assert torch.equal(got[2][E - 1], torch.zeros(2 * F, D, dtype=torch.float64))


def test_all_tokens_may_choose_the_same_experts() -> None:
    x, gates, _, w_gate_up, w_down = inputs()
    index = torch.tensor([[E - 1, 0, 3]]).expand(T, K)
    want = reference(x, gates, index, w_gate_up, w_down)
    torch.testing.assert_close(grouped(x, gates, index, w_gate_up, w_down), want)


def test_spread_and_gather_are_transposes() -> None:
    rows = torch.randperm(T * K).view(T, K)
    tokens = torch.empty(T * K, dtype=torch.int64)
    tokens[rows] = torch.arange(T)[:, None].expand(T, K)
    x, y = torch.randn(T, D, dtype=torch.float64), torch.randn(T * K, D, dtype=torch.float64)
    left = (spread(x, tokens, rows) * y).sum()
    torch.testing.assert_close(left, (x * gather(y, tokens, rows)).sum())
    x.requires_grad_()
    y.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad((spread(x, tokens, rows) * y).sum(), x)[0], gather(y, tokens, rows))
    torch.testing.assert_close(torch.autograd.grad((gather(y, tokens, rows) * x).sum(), y)[0], spread(x, tokens, rows))


def test_meta_tensors_get_a_shape() -> None:
    args = [a.to("meta") for a in inputs(dtype=torch.bfloat16)]
    assert experts(*args).shape == (T, D)
    assert experts(*[a[:1] if i < 3 else a for i, a in enumerate(args)]).shape == (1, D)
