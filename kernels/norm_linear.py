"""RMSNorm and the products that read its result: (x / rms(x) w_norm) W' + b for each matrix W.

    reference     the definition
    norm_linear   launcher: ``composed`` of torch's own
    composed      of a set's norm and its products (ops.py); fp8_norm_linear.py has the form in FP8

K inputs  N outputs of one matrix
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor
from v3bench.kernels import linear, norm

OP = "norm_linear"
Biases = Sequence[Tensor | None] | None


def reference(
    x: Tensor, norm_weight: Tensor, eps: float, weights: Sequence[Tensor], biases: Biases = None
) -> tuple[Tensor, ...]:
    """x (..., K), norm_weight (K), weights (N, K), a bias (N) or None for each -> (..., N) for each."""
    return composed(x, norm_weight, eps, weights, biases, rms_norm=norm.reference, product=linear.reference)


def norm_linear(
    x: Tensor, norm_weight: Tensor, eps: float, weights: Sequence[Tensor], biases: Biases = None
) -> tuple[Tensor, ...]:
    """As ``reference``. Raises ValueError."""
    return composed(x, norm_weight, eps, weights, biases, rms_norm=norm.rms_norm, product=linear.linear)


def composed(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
    biases: Biases = None,
    *,
    rms_norm: Callable[[Tensor, Tensor, float], Tensor],
    product: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> tuple[Tensor, ...]:
    """One after the other; ``rms_norm`` and ``product`` are operations of a set. Raises ValueError."""
    layers = list(paired(OP, weights, biases))
    n = rms_norm(x, norm_weight, eps)
    return tuple(product(n, w, b) for w, b in layers)


def paired(op: str, weights: Sequence[Tensor] | Tensor, biases: Biases) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Each matrix with its bias. Raises ValueError."""
    if isinstance(weights, Tensor) or not weights:  # a tensor would be taken apart into its rows
        have = "a tensor" if isinstance(weights, Tensor) else "empty"
        raise ValueError(f"{op}: weights is {have}, expected a sequence of matrices")
    if biases is not None and len(biases) != len(weights):
        raise ValueError(
            f"{op}: biases has {len(biases)} entries, expected {len(weights)}, one or None for each weight"
        )
    return zip(weights, biases or [None] * len(weights), strict=True)
