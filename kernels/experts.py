"""Bringing tokens to their experts and back (V3 report, eq. 12): what dispatch and combine do between GPUs.

    Order      where each (token, choice) pair goes when the pairs are sorted by expert
    dispatch   tokens -> one row per pair, sorted by expert
    combine    those rows -> tokens, weighted by the gates

T tokens  K experts per token  E experts  D width. No shape here depends on a value, so all of it runs on
the meta device and none of it waits for a GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Order(NamedTuple):
    """pairs (TK): the pair in each sorted row; rows (TK): the sorted row of each pair; offsets int32 (E): row ends."""

    pairs: Tensor
    rows: Tensor
    offsets: Tensor


def sort_by_expert(index: Tensor, n_experts: int) -> Order:
    """index (T, K) int64, the experts chosen -> Order."""
    flat = index.flatten()
    ordered, pairs = flat.sort(stable=True)
    rows = torch.empty_like(pairs).scatter_(0, pairs, torch.arange(len(pairs), device=pairs.device))
    every = torch.arange(n_experts, device=flat.device)
    return Order(pairs, rows, torch.searchsorted(ordered, every, right=True, out_int32=True))


def dispatch(x: Tensor, order: Order, top_k: int) -> Tensor:
    """x (T, D) -> (TK, D), a copy of its token for every sorted row."""
    return Dispatch.apply(x, order.pairs, order.rows, top_k)


def combine(y: Tensor, gates: Tensor, order: Order) -> Tensor:
    """y (TK, D) sorted rows, gates (T, K) -> (T, D), the sum over each token's experts of gate * row."""
    pairs = Permute.apply(y, order.rows, order.pairs).unflatten(0, gates.shape)  # (T, K, D)
    return (pairs * gates.to(y.dtype)[..., None]).sum(1)


class Dispatch(torch.autograd.Function):
    """Its backward is a gather and a sum, where torch's own scatters row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Tensor, rows: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.top_k = top_k
        return x.index_select(0, pairs // top_k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (rows,) = ctx.saved_tensors
        return grad.index_select(0, rows).unflatten(0, (-1, ctx.top_k)).sum(1), None, None, None


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
