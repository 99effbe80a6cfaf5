"""What a tensor core does with a sum, read off the results of crafted products.

    fraction_bits      how many bits below the leading one of the largest product survive
    truncates          whether what lies below them is cut off, not rounded
    aligned_products   how many products are aligned to one exponent before they are added

Each takes a GEMM, a (M, K), b (N, K) e4m3 -> (M, N) float32, and knows nothing else of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from v3bench.suite.budget.accumulation import FP8, Gemm

K = 256  # products in a sum: a power of two, and several times what is known to be aligned
TOP, BOTTOM = 8, -6  # exponents of E4M3's largest and smallest power of two with full precision
LARGE, SMALL = 2.0 ** (2 * TOP), 2.0 ** (2 * BOTTOM)
MOST = 23  # fraction bits of a float32 result: more cannot be seen


def fraction_bits(gemm: Gemm, device: str = "cpu") -> int:
    """Fraction bits kept of a product added to a larger one, up to MOST: 2^16 + 2^(16-d) is exact for d up to them."""
    below = list(range(1, MOST + 1))
    sums = pair(gemm, below, 1.0, device)
    kept = [got == LARGE + LARGE * 2.0**-d for d, got in zip(below, sums, strict=True)]
    return kept.index(False) if False in kept else MOST


def truncates(gemm: Gemm, bits: int, device: str = "cpu") -> bool:
    """Whether one and a half times half the last of ``bits`` kept is lost; rounded to nearest, it would count as one.

    For fewer than MOST bits.
    """
    return pair(gemm, [bits + 1], 1.5, device) == [LARGE]


def pair(gemm: Gemm, below: list[int], times: float, device: str) -> list[float]:
    """The sums of LARGE and ``times`` LARGE 2^-d, for each d of ``below``."""
    a, b = (torch.zeros(len(below), K) for _ in range(2))
    a[:, 0] = b[:, 0] = 2.0**TOP
    for row, d in enumerate(below):
        a[row, 1], b[row, 1] = times * 2.0 ** (TOP - d // 2), 2.0 ** (TOP - (d - d // 2))
    return run(gemm, a, b, device).diagonal().tolist()


def aligned_products(gemm: Gemm, device: str = "cpu") -> int:
    """How many products, the one itself among them, are aligned with a given product; K if all, 2 if no more.

    LARGE, -LARGE and SMALL lie at three places of a sum: SMALL is lost where it is aligned with LARGE, and survives
    where LARGE is gone before it comes. LARGE is the first or the last product, -LARGE a power of two away: at the best
    of these both are aligned together and come first, and only what is aligned with them is lost.
    """
    distances = [2**i for i in range(K.bit_length() - 1)]
    places = [(0, d) for d in distances] + [(K - 1, K - 1 - d) for d in distances]
    return min(len(lost(gemm, *place, device)) for place in places) + 2


def lost(gemm: Gemm, plus: int, minus: int, device: str) -> list[int]:
    """Where SMALL is lost with LARGE at ``plus`` and -LARGE at ``minus``."""
    a = torch.eye(K) * 2.0**BOTTOM
    b = torch.full((1, K), 2.0**BOTTOM)
    a[:, plus], a[:, minus] = 2.0**TOP, -(2.0**TOP)
    b[:, [plus, minus]] = 2.0**TOP
    sums = run(gemm, a, b, device)[:, 0].tolist()
    return [p for p, got in enumerate(sums) if p not in (plus, minus) and got != SMALL]


def run(gemm: Gemm, a: Tensor, b: Tensor, device: str) -> Tensor:
    """The product of values of E4M3."""
    return gemm(a.to(device, FP8), b.to(device, FP8)).cpu()
