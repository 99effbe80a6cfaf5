"""The probe reads a tensor core that is known; measured and modelled errors are one measure."""

from __future__ import annotations

import pytest
import torch
from v3bench.suite.budget import accumulation, tensor_core
from v3bench.suite.budget.accumulation import modelled
from v3bench.suite.laws import numerics


def exact(a, b):
    return (a.double() @ b.double().T).float()


def in_order(gemm, order):
    """A GEMM whose hardware takes its products in another order."""
    return lambda a, b: gemm(a.float()[:, order], b.float()[:, order])


def rounding(bits):
    """Two products, the smaller rounded, not cut off, to ``bits`` fraction bits of the larger."""

    def gemm(a, b):
        terms = a.double()[:, None] * b.double()
        step = 2.0 ** (terms.abs().amax(-1, keepdim=True).log2().floor() - bits)
        return ((terms / step).round() * step).sum(-1)

    return gemm


@pytest.mark.parametrize("bits", [13, 14, 22, 23])
@pytest.mark.parametrize("aligned, promote", [(16, 0), (32, 0), (32, 128), (64, 0)])
def test_the_probe_reads_what_the_model_was_given(bits, aligned, promote):
    gemm = modelled(bits, aligned=aligned, promote=promote)
    assert tensor_core.fraction_bits(gemm) == bits
    assert tensor_core.aligned_products(gemm) == aligned


@pytest.mark.parametrize(
    "order", [torch.arange(256).flip(0), torch.arange(256).view(2, 128).T.flatten()], ids=["backward", "halves in turn"]
)
@pytest.mark.parametrize("aligned", [16, 32])
def test_the_order_of_the_products_does_not_matter(order, aligned):
    gemm = in_order(modelled(13, aligned=aligned), order)
    assert tensor_core.aligned_products(gemm) == aligned
    assert tensor_core.fraction_bits(gemm) == 13


def test_what_loses_nothing_reads_as_the_most_that_shows():
    assert tensor_core.fraction_bits(exact) == tensor_core.MOST
    assert tensor_core.aligned_products(exact) == 2
    assert tensor_core.aligned_products(modelled(13, aligned=256)) == tensor_core.K


def test_rounding_is_told_from_cutting_off():
    assert tensor_core.fraction_bits(rounding(13)) == 13
    assert not tensor_core.truncates(rounding(13), 13)
    assert tensor_core.truncates(modelled(13), 13)


def test_the_probe_s_operands_are_values_of_e4m3():
    seen = []

    def gemm(a, b):
        seen.extend((a, b))
        return exact(a, b)

    for probe in (tensor_core.fraction_bits, tensor_core.aligned_products):
        probe(gemm)
    tensor_core.truncates(gemm, 13)
    assert {side.dtype for side in seen} == {torch.float8_e4m3fn}
    magnitudes = set(torch.cat([side.float().abs().flatten() for side in seen]).unique().tolist())
    assert {0.0, tensor_core.SMALL**0.5, tensor_core.LARGE**0.5} <= magnitudes
    assert max(magnitudes) == tensor_core.LARGE**0.5


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("promote", [0, 128])
def test_a_gemm_s_error_is_the_model_s_when_it_is_the_model(distribution, promote):
    got = accumulation.accumulation_error(modelled(13, promote=promote), 1024, distribution)
    assert got == numerics.accumulation_error(13, 1024, promote, distribution)


def test_an_exact_gemm_is_off_by_one_rounding():
    assert accumulation.accumulation_error(exact, 1024, "uniform") <= 2**-24
