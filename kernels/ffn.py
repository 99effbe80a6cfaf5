"""The dense feed-forward network: SwiGLU between two products, behind an RMSNorm where one is given.

    reference   the definition
    ffn         launcher: ``composed`` of torch's own
    composed    of a set's operations (ops.py); fp8_ffn.py has the form in FP8

D width  F inner width
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from v3bench.kernels import linear, norm, swiglu

Norm = tuple[Tensor, float]  # the weight (D) and eps of the RMSNorm before


def reference(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    norm_before: Norm | None = None,
) -> Tensor:
    """x (..., D), w_gate_up (2F, D), gate rows first, w_down (D, F), biases (2F) and (D) -> (..., D)."""
    given = x, w_gate_up, w_down, b_gate_up, b_down, norm_before
    return composed(*given, rms_norm=norm.reference, product=linear.reference, activation=swiglu.reference)


def ffn(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    norm_before: Norm | None = None,
) -> Tensor:
    """As ``reference``."""
    given = x, w_gate_up, w_down, b_gate_up, b_down, norm_before
    return composed(*given, rms_norm=norm.rms_norm, product=linear.linear, activation=swiglu.swiglu)


def composed(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    norm_before: Norm | None = None,
    *,
    rms_norm: Callable[[Tensor, Tensor, float], Tensor],
    product: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """One after the other; the last three are operations of a set."""
    if norm_before is not None:
        x = rms_norm(x, *norm_before)
    return product(activation(product(x, w_gate_up, b_gate_up)), w_down, b_down)
