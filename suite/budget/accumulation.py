"""What summing in few bits adds to a product of FP8 matrices: by the model of laws/numerics.py, and on a GPU.

Gemm                a (M, K), b (N, K) e4m3 -> (M, N) float32
modelled            the model as a Gemm
unpromoted          this project's kernel that leaves the sum in the tensor core
promoted            its kernel that moves it to FP32 every 128 products
accumulation_error  of any Gemm, on the operands and by the measure that the model is judged by
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from v3bench.suite.laws import numerics
from v3bench.suite.laws.numerics import FRACTION_BITS, WGMMA_K, Distribution

Gemm = Callable[[Tensor, Tensor], Tensor]
FP8 = torch.float8_e4m3fn
TILE = 128


def modelled(fraction_bits: int = FRACTION_BITS, *, promote: int = 0, aligned: int = WGMMA_K) -> Gemm:
    """The model of a tensor core as a Gemm; the arguments are those of ``numerics.tensor_core``."""

    def gemm(a: Tensor, b: Tensor) -> Tensor:
        left, right = array(a)[:, None], array(b)[None]
        return torch.from_numpy(numerics.tensor_core(left, right, fraction_bits, promote=promote, aligned=aligned))

    return gemm


def array(x: Tensor) -> NDArray[np.float64]:
    """x in float64."""
    wide: NDArray[np.float64] = x.double().cpu().numpy()
    return wide


def unpromoted(a: Tensor, b: Tensor) -> Tensor:
    """As ``Gemm``, on a Hopper GPU. Raises ValueError elsewhere."""
    from v3bench.kernels.fp8_gemm_unpromoted import fp8_gemm_unpromoted

    return fp8_gemm_unpromoted(a, b)


def promoted(a: Tensor, b: Tensor) -> Tensor:
    """As ``Gemm``, on a Hopper GPU, with scales of one. Raises ValueError elsewhere."""
    from v3bench.kernels.fp8_gemm import fp8_gemm

    tiles = -(-a.shape[1] // TILE)
    scales = (torch.ones(rows, tiles, device=a.device) for rows in (len(a), -(-len(b) // TILE)))
    return fp8_gemm(a, next(scales), b, next(scales), torch.float32)


GEMMS: dict[str, Gemm] = {"unpromoted": unpromoted, "promoted": promoted}


def convention(name: str, distribution: Distribution, k: int) -> str:
    """What a measured error of one of GEMMS depends on, as claims and the report look it up."""
    norm = "largest, of the exact sum" if distribution == "uniform" else "largest, of the root mean square"
    return f"{norm}; {distribution}, K = {k}, {name}"


def accumulation_error(gemm: Gemm, k: int, distribution: Distribution, device: str = "cpu") -> float:
    """As ``numerics.accumulation_error`` has it of the model: the largest error of 128 sums of ``k`` products."""
    left, right = numerics.operands(k, distribution)
    a, b = (torch.from_numpy(side).to(device, FP8) for side in (left, right))  # exact: they are values of E4M3
    sums = array(gemm(a, b).diagonal())
    return numerics.error_of(sums, (left * right).sum(axis=1), distribution)
