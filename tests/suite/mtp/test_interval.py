"""The interval of a mean over files, against tables of Student's t."""

import math
import statistics

import pytest
import torch
from v3bench.model_ref.errors import BadInput
from v3bench.suite.mtp.interval import over_files


@pytest.mark.parametrize(("files", "t"), [(3, 4.303), (5, 2.776), (10, 2.262), (26, 2.060)])  # 97.5 %, n - 1 free
def test_width_is_that_of_the_table(files, t):
    values = torch.rand(files, dtype=torch.float64).tolist()
    got = over_files(values)
    assert got.mean == pytest.approx(statistics.fmean(values))
    assert got.high - got.mean == pytest.approx(t * statistics.stdev(values) / math.sqrt(files), rel=3e-4)
    assert got.mean - got.low == pytest.approx(got.high - got.mean)


def test_encloses_the_true_mean_nineteen_times_in_twenty():
    draws = torch.randn(2000, 6, dtype=torch.float64).tolist()
    inside = sum(got.low <= 0 <= got.high for got in map(over_files, draws))
    assert 0.935 < inside / len(draws) < 0.965  # three standard errors: 0.015


def test_bad_input():
    with pytest.raises(BadInput, match="2 files; expected at least 3"):
        over_files([0.5, 0.7])
    with pytest.raises(BadInput, match="nan"):
        over_files([0.5, 0.6, math.nan])
