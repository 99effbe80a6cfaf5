"""The routed experts of DeepSeekMoE (V3 report, eq. 12): a gated sum of each token's chosen networks.

    reference   the definition, one token and one expert at a time
    experts     launcher: ``single`` for each of few tokens on a CPU, else ``grouped``
    grouped     tokens sorted by expert, two grouped GEMMs, and back; no shape in it depends on a value, so that it
                runs on the meta device and never waits for a GPU

T tokens  D width  E experts  K experts per token  F inner width of an expert
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.kernels.grouped_gemm import grouped_gemm
from v3bench.kernels.swiglu import reference as swiglu_reference
from v3bench.kernels.swiglu import swiglu

# A token and its draft rarely choose the same expert, and sorting them takes longer than reading one twice.
FEW = 2


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
    if 1 < len(x) <= FEW and x.device.type == "cpu":
        each = (slice(t, t + 1) for t in range(len(x)))
        return torch.cat([single(x[t], gates[t], index[t], w_gate_up, w_down) for t in each])
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
    (T, K), E = index.shape, len(w_down)
    if not w_gate_up.numel() or not w_down.numel():
        shapes = f"w_gate_up {tuple(w_gate_up.shape)} and w_down {tuple(w_down.shape)}"
        raise ValueError(f"experts: weights are {shapes}, expected at least one expert, and no width of 0")
    ordered, pairs = index.flatten().sort(stable=True)  # (TK): the (token, choice) pair in each sorted row
    offsets = torch.searchsorted(ordered, torch.arange(E, device=x.device), right=True, out_int32=True)
    tokens, rows = pairs // K, pairs.argsort().view(T, K)  # the token in each row, the rows of each token
    a = activation(gemm(spread(x, tokens, rows), w_gate_up, offsets))  # (TK, F)
    # A gate may as well scale what goes into the second matrix, which is narrower than what comes out.
    a = a * gates.flatten().index_select(0, pairs).to(a.dtype).unsqueeze(-1)
    return gather(gemm(a, w_down, offsets), tokens, rows)


def spread(x: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
    """Dispatch: x (T, D) -> (TK, D), row r a copy of x[tokens[r]]; ``rows`` (T, K): where each token's copies are."""
    return Spread.apply(x, tokens, rows) if torch.is_grad_enabled() else x.index_select(0, tokens)


def gather(y: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
    """Combine: y (TK, D) -> (T, D), the sum of each token's K rows; the transpose of ``spread``."""
    return Gather.apply(y, tokens, rows) if torch.is_grad_enabled() else summed(y, rows)


def summed(y: Tensor, rows: Tensor) -> Tensor:
    """y (TK, D), rows (T, K) -> (T, D)."""
    return y.index_select(0, rows.flatten()).view(*rows.shape, y.shape[1]).sum(1)


class Spread(torch.autograd.Function):
    """Torch's own backward of a gather would add row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return x.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return summed(grad, *ctx.saved_tensors), None, None


class Gather(torch.autograd.Function):
    """Its gradient is spread."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        return summed(y, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, *ctx.saved_tensors), None, None
