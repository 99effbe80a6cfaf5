"""Ratios pair rounds of one launch with the first series of their case, and nothing else."""

import pytest
from v3bench.suite.report.ratio_table import ratio_table

DRIFT = (1.0, 2.0, 4.0, 3.0, 1.5, 2.5, 5.0)


def timed(record, factor=1.0, **fields):
    return record(metric="prefill_time", samples=tuple(factor * x for x in DRIFT), **fields)


def test_a_ratio_takes_out_the_load_that_both_share(record, run_of):
    run = run_of(timed(record), timed(record, 1.25, impl="transformers"))
    (cells,) = ratio_table([run]).cells
    assert cells[:4] == ["deepseek-v3-small, transformers", "1.25 ×", "1.25 to 1.25", "deepseek-v3-small, torch"]
    assert "proxy" in cells


def test_launches_are_pooled_and_each_pairs_with_its_own_first(record, run_of):
    slow = [timed(record, 10 * f, impl=impl, launch="b") for f, impl in ((1, "torch"), (3, "transformers"))]
    run = run_of(timed(record), timed(record, 3, impl="transformers"), *slow)
    (cells,) = ratio_table([run]).cells
    assert (cells[1], cells[-1]) == ("3.00 ×", str(2 * len(DRIFT)))


@pytest.mark.parametrize(
    "other",
    [
        {"case": "another"},
        {"device": "cuda"},
        {"precision": "bfloat16"},
        {"clock": "device-hot"},
        {"launch": "b"},
        {"samples": (1.0, 2.0)},
        {"status": "failed", "samples": (), "why": "wrong"},
        {"metric": "parameters"},
        {"metric": "not-in-the-table"},
    ],
)
def test_what_was_not_taken_in_turns_has_no_ratio(record, run_of, other):
    fields = {"metric": "prefill_time", "impl": "transformers", "samples": DRIFT} | other
    assert ratio_table([run_of(timed(record), record(**fields))]).cells == []
