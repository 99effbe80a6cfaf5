"""Number formats and accumulation by model: what limited fraction bits do to a long sum, and LogFMT's grid.

Accumulation (V3 report 3.3.2 and 3.5.2, ISCA 3.1.1): Hopper's FP8 tensor core adds 32 products at a time; products
and the running sum are aligned to the largest exponent among them, cut off below a number of fraction bits, and added.
Every ``promote`` products the sum moves to an FP32 register. This is a model of that sentence, not of the silicon.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal

from v3bench.model_ref.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WGMMA_K = 32  # FP8 products that one instruction adds
FRACTION_BITS = 13  # that the tensor core keeps (ISCA 3.1.1)
PROMOTE = 128  # products between two promotions (V3 report 3.3.2: N_C)
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


@lru_cache(maxsize=2)  # the longest take 34 MB
def operands(k: int, distribution: Distribution) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two sides [ROWS, k], each scaled to E4M3's whole range, as the recipe does, and rounded to it."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    draw = rng.random if distribution == "uniform" else rng.standard_normal
    left, right = draw((ROWS, k)), draw((ROWS, k))
    return e4m3(left * (E4M3_LARGEST / np.abs(left).max())), e4m3(right * (E4M3_LARGEST / np.abs(right).max()))


def tensor_core(
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    fraction_bits: int = FRACTION_BITS,
    *,
    promote: int = 0,
    aligned: int = WGMMA_K,
) -> NDArray[np.float64]:
    """left, right [..., K], broadcast -> the sums [...] of their products as the tensor core adds them.

    aligned: products added at a time. promote: products after which the sum moves to FP32; 0 is never. Raises BadInput.
    """
    import numpy as np

    if fraction_bits < 0 or aligned < 1 or promote < 0 or promote % aligned:
        given = f"fraction_bits={fraction_bits}, aligned={aligned}, promote={promote}"
        raise BadInput(given, where="tensor_core", right="promotion after a multiple of the aligned products")
    shape, K = np.broadcast_shapes(left.shape[:-1], right.shape[:-1]), left.shape[-1]
    total, terms = np.zeros(shape, np.float32), np.zeros((*shape, 1 + aligned))  # the running sum, then products
    for start in range(0, K, aligned):
        end = min(start + aligned, K)
        added = terms[..., : 1 + end - start]
        np.multiply(left[..., start:end], right[..., start:end], out=added[..., 1:])
        exponent = np.frexp(np.abs(added).max(axis=-1))[1] - 1
        step = np.exp2((exponent - fraction_bits).astype(np.float64))
        running = np.trunc(added / step[..., None]).sum(axis=-1) * step
        if end == K or (promote and end % promote == 0):
            total += running.astype(np.float32)
            running = np.zeros_like(running)
        terms[..., 0] = running
    return total.astype(np.float64)


def error_of(sums: NDArray[np.float64], exact: NDArray[np.float64], distribution: Distribution) -> float:
    """Largest error of sums [n] against the exact ones: of uniform operands relative to the exact sum itself.

    Of normal operands over the sums' root mean square, since sums near zero have no meaningful relative error.
    """
    scale = exact if distribution == "uniform" else math.sqrt(float((exact**2).mean()))
    return float((abs(sums - exact) / scale).max())


@cache
def accumulation_error(fraction_bits: int, k: int, promote: int, distribution: Distribution) -> float:
    """Largest error of ROWS dot products of length ``k``, operands in E4M3, against the exact sum (``error_of``).

    uniform: operands in [0, 1) before scaling. ``promote`` 0: never.
    """
    left, right = operands(k, distribution)
    return error_of(tensor_core(left, right, fraction_bits, promote=promote), (left * right).sum(axis=1), distribution)


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
