"""Dequantisation of block-scaled FP8 weights: ragged edges, every dtype."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels.block_quant import dequantize, dequantize_into, product, reference


@pytest.mark.parametrize("shape", [(128, 128), (256, 384), (130, 260), (1, 129), (57, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_launcher_equals_the_definition(shape: tuple[int, int], dtype: torch.dtype) -> None:
    codes = (torch.randn(shape) * 100).to(torch.float8_e4m3fn)
    scale_inv = torch.rand(-(-shape[0] // 128), -(-shape[1] // 128)) + 0.5
    got = dequantize(codes, scale_inv, dtype)
    assert got.dtype == dtype
    assert torch.equal(got, reference(codes, scale_inv, dtype))


def test_each_element_has_the_scale_of_its_own_block() -> None:
    codes = torch.ones(130, 260).to(torch.float8_e4m3fn)
    scale_inv = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    out = dequantize(codes, scale_inv, torch.float32)
    for i, j in ((0, 0), (127, 127), (127, 128), (128, 127), (129, 256), (0, 259)):
        assert out[i, j] == scale_inv[i // 128, j // 128]


def test_other_block_sizes() -> None:
    codes, scale_inv = torch.ones(5, 7).to(torch.float8_e4m3fn), torch.arange(12.0).view(3, 4)
    out = dequantize(codes, scale_inv, torch.float32, (2, 2))
    assert torch.equal(out, reference(codes, scale_inv, torch.float32, (2, 2)))
    assert out[4, 6] == 11


@pytest.mark.parametrize("scale", [1.0, 1e-7, 3e-42, 0.3, 7e35, 1e37])
def test_every_code_has_the_value_torch_gives_it(scale: float) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).view(2, 128)
    got = dequantize(codes, torch.full((1, 1), scale), torch.float32)
    assert torch.equal(got.nan_to_num(7.0, 1e38, -1e38), (codes.float() * scale).nan_to_num(7.0, 1e38, -1e38))


def test_into_memory_that_is_there() -> None:
    codes, scale_inv = (torch.randn(260, 130) * 100).to(torch.float8_e4m3fn), torch.rand(3, 2)
    whole = torch.full((300, 140), 5.0)
    place = whole[10:270, 5:135]
    assert dequantize_into(place, codes, scale_inv) is place
    assert torch.equal(place, reference(codes, scale_inv, torch.float32))
    assert (whole == 5.0).sum() == 300 * 140 - 260 * 130


def test_refuses_scales_that_do_not_fit() -> None:
    codes = torch.ones(130, 260).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"shape \(3, 2\), expected \(2, 3\)"):
        dequantize(codes, torch.ones(3, 2), torch.float32)


@pytest.mark.parametrize("shape", [(128, 128), (130, 260), (1, 129), (300, 3)])
def test_a_product_in_bands_is_that_of_the_whole_weight(shape: tuple[int, int]) -> None:
    codes = (torch.randn(shape) * 100).to(torch.float8_e4m3fn)
    scale_inv = torch.rand(-(-shape[0] // 128), -(-shape[1] // 128)) * 0.02
    x, whole = torch.randn(5, shape[1]), torch.full((5, shape[0] + 9), 7.0)
    out = product(x, codes, scale_inv, whole[:, 4 : 4 + shape[0]])
    torch.testing.assert_close(out, x @ reference(codes, scale_inv, torch.float32).T)
    assert (whole == 7.0).sum() == 5 * 9
