"""Number formats and accumulation by model: what limited fraction bits do to a long sum, and LogFMT's grid.

Accumulation (V3 report 3.3.2 and 3.5.2, ISCA 3.1.1): Hopper's FP8 tensor core adds 32 products at a time; products
and the running sum are aligned to the largest exponent among them, cut off below a number of fraction bits, and added.
Every ``promote`` products the sum moves to an FP32 register. This is a model of that sentence, not of the silicon.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WGMMA_K = 32  # FP8 products that one instruction adds
SEED = 20241227
ROWS = 128  # dot products in one experiment
E4M3_SMALLEST, E4M3_FRACTION = -6, 3  # exponent of the smallest normal, bits after the leading one
E4M3_LARGEST = 448

Distribution = Literal["uniform", "normal"]


def e4m3(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of magnitude up to 448 rounded to E4M3, ties to even."""
    import numpy as np

    exponent = np.maximum(np.frexp(x)[1] - 1, E4M3_SMALLEST)
    step = np.exp2((exponent - E4M3_FRACTION).astype(np.float64))
    return np.asarray(np.rint(x / step) * step)


@cache
def products_of(k: int, distribution: Distribution) -> NDArray[np.float64]:
    """[ROWS, k] products of operands scaled to E4M3's whole range, as the recipe does, and rounded to it."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    draw = rng.random if distribution == "uniform" else rng.standard_normal
    left, right = draw((ROWS, k)), draw((ROWS, k))
    return e4m3(left * (E4M3_LARGEST / np.abs(left).max())) * e4m3(right * (E4M3_LARGEST / np.abs(right).max()))


@cache
def accumulation_error(fraction_bits: int, k: int, promote: int, distribution: Distribution) -> float:
    """Largest error of ROWS dot products of length ``k``, operands in E4M3, against the exact sum.

    uniform: operands in [0, 1) before scaling, error relative to the exact sum. normal: error over the sums' root mean
    square, since sums near zero have no meaningful relative error. ``promote`` 0: never.
    """
    import numpy as np

    products = products_of(k, distribution)
    total, partial = np.zeros(ROWS), np.zeros(ROWS)
    for start in range(0, k, WGMMA_K):
        terms = np.concatenate([products[:, start : start + WGMMA_K], partial[:, None]], axis=1)
        exponent = np.frexp(np.abs(terms).max(axis=1))[1] - 1
        step = np.exp2((exponent - fraction_bits).astype(np.float64))[:, None]
        partial = (np.trunc(terms / step) * step).sum(axis=1)
        if promote and (start + WGMMA_K) % promote == 0:
            total, partial = total + partial, np.zeros(ROWS)
    exact = products.sum(axis=1)
    error = np.abs(total + partial - exact)
    scale = exact if distribution == "uniform" else math.sqrt(float((exact**2).mean()))
    return float((error / scale).max())


def logfmt_steps(bits: int) -> int:
    """Steps between the smallest and largest magnitude code of LogFMT-n: 2^(n-1) - 2 (ISCA 3.2)."""
    return int(2 ** (bits - 1) - 2)


def logfmt_worst_error(bits: int, span: float) -> float:
    """Worst relative error of LogFMT-n over a tile whose largest over smallest magnitude is e^``span``.

    Neighbouring magnitudes differ by the factor r = e^(span / steps). Rounding in linear space puts the border halfway
    between them, so a value there is off by (r - 1) / (r + 1) of itself.
    """
    ratio = math.exp(span / logfmt_steps(bits))
    return (ratio - 1) / (ratio + 1)
