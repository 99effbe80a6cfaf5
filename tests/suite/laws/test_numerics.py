"""Accumulation with few bits, and LogFMT's grid."""

import itertools
import math

import numpy as np
import pytest
from v3bench.suite.laws.numerics import accumulation_error, e4m3, logfmt_steps, logfmt_worst_error


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
    assert accumulation_error(40, 1024, 0, "uniform") < 1e-9


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
