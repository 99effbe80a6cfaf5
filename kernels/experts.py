"""The routed experts of DeepSeekMoE (V3 report, eq. 12): a gated sum of each token's chosen networks.

    reference   the definition, one token and one expert at a time
    experts     launcher: ``single`` for one token on a CPU, else ``grouped``
    grouped     tokens sorted by expert, two grouped GEMMs, and back; no shape in it depends on a value, so that it
                runs on the meta device and never waits for a GPU

T tokens  D width  E experts  K experts per token  F inner width of an expert
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.kernels.grouped_gemm import grouped_gemm
from v3bench.kernels.swiglu import reference as swiglu_reference
from v3bench.kernels.swiglu import swiglu


def reference(x: Tensor, gates: Tensor, index: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """x (T, D), gates (T, K), index int64 (T, K), w_gate_up (E, 2F, D), w_down (E, D, F) -> (T, D)."""
    rows = []
    for token, its_gates, chosen in zip(x, gates, index.tolist(), strict=True):
        outputs = [w_down[e] @ swiglu_reference(w_gate_up[e] @ token) for e in chosen]
        rows.append(sum(g * y for g, y in zip(its_gates.to(x.dtype), outputs, strict=True)))
    return torch.stack(rows)


def experts(x: Tensor, gates: Tensor, index: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """As ``reference``."""
    if len(x) == 1 and x.device.type == "cpu":
        return single(x, gates, index, w_gate_up, w_down)
    return grouped(x, gates, index, w_gate_up, w_down)


def single(x: Tensor, gates: Tensor, index: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """One token, x (1, D): its K experts in turn, as reading the choice costs a CPU nothing."""
    chosen = index[0].tolist()
    a = swiglu(torch.cat([F.linear(x, w_gate_up[e]) for e in chosen]))  # (K, F)
    a = a * gates.to(x.dtype).view(-1, 1)  # a gate may as well scale what goes in
    y = F.linear(a[:1], w_down[chosen[0]])  # (1, D)
    for i, e in enumerate(chosen[1:], start=1):
        y = torch.addmm(y, a[i : i + 1], w_down[e].T)
    return y


def grouped(
    x: Tensor,
    gates: Tensor,
    index: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    *,
    gemm: Callable[[Tensor, Tensor, Tensor], Tensor] = grouped_gemm,
    activation: Callable[[Tensor], Tensor] = swiglu,
) -> Tensor:
    """Any number of tokens; ``gemm`` and ``activation`` are operations of a set (ops.py)."""
    order = sort_by_expert(index, len(w_down))
    rows = gemm(dispatch(x, order, index.shape[1]), w_gate_up, order.offsets)  # (TK, 2F)
    rows = gemm(activation(rows), w_down, order.offsets)  # (TK, D)
    return combine(rows, gates, order)


class Order(NamedTuple):
    """pairs (TK): the (token, choice) pair in each sorted row; rows (TK): the row of each pair; offsets int32 (E)."""

    pairs: Tensor
    rows: Tensor
    offsets: Tensor


def sort_by_expert(index: Tensor, n_experts: int) -> Order:
    """index (T, K) int64 -> Order; ``offsets`` are the ends of each expert's rows."""
    ordered, pairs = index.flatten().sort(stable=True)
    every = torch.arange(n_experts, device=index.device)
    return Order(pairs, pairs.argsort(), torch.searchsorted(ordered, every, right=True, out_int32=True))


def dispatch(x: Tensor, order: Order, top_k: int) -> Tensor:
    """x (T, D) -> (TK, D), a copy of its token for every sorted row."""
    return Dispatch.apply(x, order.pairs // top_k, order.rows) if torch.is_grad_enabled() else x[order.pairs // top_k]


def combine(y: Tensor, gates: Tensor, order: Order) -> Tensor:
    """y (TK, D) sorted rows, gates (T, K) -> (T, D), the sum over each token's experts of gate * row."""
    pairs = Permute.apply(y, order.rows, order.pairs) if torch.is_grad_enabled() else y[order.rows]  # (TK, D)
    return (pairs.unflatten(0, gates.shape) * gates.to(y.dtype)[..., None]).sum(1)


class Dispatch(torch.autograd.Function):
    """Rows of x, each K times; the gradient gathers and sums, where torch's own would scatter row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.tokens = len(x)
        return x.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return grad.index_select(0, rows).unflatten(0, (ctx.tokens, -1)).sum(1), None, None


class Permute(torch.autograd.Function):
    """Rows of y in another order; the gradient takes them back."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return y.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None
