"""Accumulation with few bits, and LogFMT's grid."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws.numerics import (
    WGMMA_K,
    accumulation_error,
    e4m3,
    logfmt_steps,
    logfmt_worst_error,
    tensor_core,
)


def test_e4m3_is_torch_s():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(10_000) * np.exp2(np.random.default_rng(1).integers(-12, 8, 10_000))
    x = x[np.abs(x) < 448]
    expected = torch.from_numpy(x.astype(np.float32)).to(torch.float8_e4m3fn).to(torch.float64).numpy()
    assert np.array_equal(e4m3(x.astype(np.float32).astype(np.float64)), expected)


def test_each_bit_about_halves_the_error():
    errors = [accumulation_error(bits, 4096, 0, "uniform") for bits in (12, 13, 14, 15)]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.6


def test_operands_use_the_whole_range():
    """Unscaled ones would lose their small values to E4M3's subnormals, and a tenth of the error with them."""
    assert accumulation_error(13, 4096, 0, "uniform") == pytest.approx(0.077, abs=0.002)


def test_promotion_removes_most_of_it():
    assert accumulation_error(13, 4096, 128, "uniform") < accumulation_error(13, 4096, 0, "uniform") / 50
    assert accumulation_error(13, 4096, 128, "normal") < accumulation_error(13, 4096, 0, "normal") / 5


def test_longer_sums_are_worse():
    assert accumulation_error(13, 4096, 0, "uniform") > 3 * accumulation_error(13, 512, 0, "uniform")


def test_enough_bits_leave_no_error():
    assert accumulation_error(40, 1024, 0, "uniform") <= 2**-24  # the result is rounded to FP32


def summed(*products, bits=13, **rest):
    """The sum of these products."""
    return float(tensor_core(np.array(products, dtype=float), np.ones(len(products)), bits, **rest))


def test_a_product_below_the_last_kept_bit_is_lost():
    assert summed(1, 2**-13) == 1 + 2**-13
    assert summed(1, 2**-14) == 1
    assert summed(1, -(2**-14) * 1.99) == 1  # cut off toward zero
    assert summed(1, 2**-14, bits=14) == 1 + 2**-14


def test_what_is_aligned_is_one_instruction_and_the_running_sum():
    small = 2**-14
    apart = [1, -1, *[0] * (WGMMA_K - 2), small]
    assert summed(*apart) == small
    assert summed(*apart, aligned=64) == 0
    assert summed(1, *[0] * (WGMMA_K - 1), small) == 1  # the sum so far is aligned with what comes
    assert summed(1, *[0] * (WGMMA_K - 1), small, promote=WGMMA_K) == 1 + small


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32), k=st.integers(1, 200), bits=st.integers(1, 20), aligned=st.sampled_from([1, 16, 32]),
    promoted=st.sampled_from([0, 1, 3]),
)  # fmt: skip
def test_no_sum_is_off_by_more_than_a_step_for_each_summand(seed, k, bits, aligned, promoted):
    """Each is cut off by less than a step of the largest magnitude that any partial sum can have; then float32."""
    rng = np.random.default_rng(seed)
    left, right = e4m3(rng.standard_normal((3, k)) * 10), e4m3(rng.standard_normal((3, k)) * 10)
    got = tensor_core(left, right, bits, aligned=aligned, promote=promoted * aligned)
    exact, most = (left * right).sum(1), np.abs(left * right).sum(1)
    groups = -(-k // aligned)
    bound = (k + groups) * most * (1 + 1e-6) * 2.0**-bits + (groups + 1) * most * 2.0**-24
    assert np.all(np.abs(got - exact) <= bound)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), k=st.integers(0, 100))
def test_without_loss_the_sum_is_the_product_of_matrices(seed, k):
    rng = np.random.default_rng(seed)
    a, b = e4m3(rng.standard_normal((2, k)) * 10), e4m3(rng.standard_normal((5, k)) * 10)
    got = tensor_core(a[:, None], b[None], 40)
    assert np.array_equal(got, (a @ b.T).astype(np.float32))


def test_what_is_not_a_number_stays_so():
    with np.errstate(invalid="ignore"):
        assert math.isnan(summed(1, math.nan, *[1] * 40))


@pytest.mark.parametrize("wrong", [{"bits": -1}, {"aligned": 0}, {"promote": 100}, {"promote": -32}])
def test_arguments_that_mean_nothing_are_refused(wrong):
    with pytest.raises(BadInput, match="promotion after a multiple of the aligned products"):
        summed(1, 2, **wrong)


def test_logfmt():
    assert [logfmt_steps(n) for n in (4, 8, 10)] == [6, 126, 510]
    span = 32 * math.log(2)
    assert logfmt_worst_error(8, span) == pytest.approx(0.0878, abs=1e-4)
    assert logfmt_worst_error(10, span) == pytest.approx(0.0217, abs=1e-4)


def test_logfmt_s_worst_case_is_at_the_border():
    """Halfway between two neighbours, either of them is off by the stated share."""
    ratio = math.exp(20 / logfmt_steps(8))
    border = (1 + ratio) / 2
    assert (border - 1) / border == pytest.approx(logfmt_worst_error(8, 20))
    assert (ratio - border) / border == pytest.approx(logfmt_worst_error(8, 20))
