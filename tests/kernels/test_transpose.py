"""Operands turned for the gradients: the definition's bits, tiles along the tokens, blocks with their scales."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels import quantize, transpose
from v3bench.suite.trials.check import poisoned


@pytest.mark.parametrize(("T", "D"), [(5, 70), (128, 64), (300, 130)])
@pytest.mark.parametrize("clamp", [quantize.ACTIVATION, quantize.GUARD])
def test_columns_are_quantised_along_the_tokens(T: int, D: int, clamp: float) -> None:
    x = (torch.randn(T, D) * torch.exp2(torch.arange(D) % 40 - 30)).bfloat16()
    x[T // 2, 3], x[:, 5] = float("inf"), 0
    want = transpose.reference_columns(x, clamp=clamp)
    with poisoned():
        codes, scales = transpose.quantize_columns(x, clamp=clamp)
    assert torch.equal(scales.nan_to_num(-1), want[1].nan_to_num(-1))
    assert torch.equal(codes.float().nan_to_num(-999), want[0].float().nan_to_num(-999))
    assert codes.stride(0) % 16 == 0
    assert int(scales.isnan().sum()) == 1


@pytest.mark.parametrize(("E", "N", "K"), [(2, 130, 300), (1, 128, 64), (3, 7, 16)])
def test_weights_are_turned_with_their_scales(E: int, N: int, K: int) -> None:
    made = [quantize.reference_blocks(torch.randn(N, K)) for _ in range(E)]
    codes, scales = torch.stack([c for c, _ in made]), torch.stack([s for _, s in made])
    with poisoned():
        turned, turned_scales = transpose.transpose_weights(codes, scales)
    want = transpose.reference_weights(codes, scales)
    assert torch.equal(turned.float(), want[0].float())
    assert torch.equal(turned_scales, want[1])


def test_bad_input_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="quantize_columns: x is int32"):
        transpose.quantize_columns(torch.zeros(4, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"transpose_weights: scales has shape \(1, 1, 1\), expected \(1, 2, 1\)"):
        transpose.transpose_weights(torch.zeros(1, 200, 16).to(quantize.FP8), torch.zeros(1, 1, 1))


def test_no_tokens_give_an_empty_result() -> None:
    codes, scales = transpose.quantize_columns(torch.zeros(0, 64))
    assert codes.shape == (64, 0)
    assert scales.shape == (64, 0)
