"""The product without promotion: exact where sums are, and one clear error where it cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from v3bench.kernels import checks, fp8_gemm, quantize
from v3bench.kernels.fp8_gemm_unpromoted import fp8_gemm_unpromoted, reference
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.check import poisoned

CONFIG = {"BLOCK_M": 32, "BLOCK_N": 64, "GROUP": 2, "num_warps": 4, "num_stages": 3}


def codes(*shape: int, device: str = "cpu") -> Tensor:
    return torch.randn(shape, device=device).to(quantize.FP8)


@pytest.mark.parametrize(("M", "N", "K"), [(5, 70, 272), (70, 33, 16), (1, 1, 128)])
def test_equals_the_exact_product(M: int, N: int, K: int) -> None:
    a, b = codes(M, K), codes(N, K)
    with poisoned():
        got = fp8_gemm_unpromoted(a, b, config=CONFIG)
    assert rounding_error(got, reference(a, b), torch.float32, K) < 1


@pytest.mark.parametrize("shape", [(0, 4, 128), (4, 0, 128), (4, 4, 0)])
def test_an_empty_side_gives_an_empty_or_zero_result(shape: tuple[int, int, int]) -> None:
    M, N, K = shape
    got = fp8_gemm_unpromoted(codes(M, K), codes(N, K), config=CONFIG)
    assert got.shape == (M, N)
    assert (got == 0).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(4, 128), codes(4, 128)), "fp8_gemm_unpromoted: a is float32, expected float8_e4m3fn"),
        ((codes(4, 128), codes(4, 144)), r"fp8_gemm_unpromoted: b has shape \(4, 144\), expected \(any, 128\)"),
        ((codes(4, 136), codes(4, 136)), "a has rows that do not start at multiples of 16 bytes"),
    ],
)
def test_bad_input_is_one_clear_error(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fp8_gemm_unpromoted(*given, config=CONFIG)


CUDA = torch.cuda.is_available() and not checks.missing(checks.HOPPER, torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_promotion_shrinks_the_error_on_a_gpu() -> None:
    a, b = codes(256, 4096, device="cuda"), codes(256, 4096, device="cuda")
    want = reference(a, b)
    ones = torch.ones(256, 32, device="cuda"), torch.ones(2, 32, device="cuda")
    promoted = fp8_gemm.fp8_gemm(a, ones[0], b, ones[1], torch.float32)
    bare = fp8_gemm_unpromoted(a, b)
    assert rounding_error(promoted, want, torch.float16) < 1
    assert (bare - want).norm() > 2 * (promoted - want).norm()
