"""Records to frames: pooled over launches, quartiles as the statistics module has them, nothing dropped."""

import random
import statistics

import pytest
from v3bench.suite.meter.measurement import AREAS
from v3bench.suite.report.frames import measurements_frame, series_frame, untaken_frame


def series(*runs):
    return series_frame(runs, measurements_frame(runs))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 31])
def test_median_and_quartiles_are_those_of_the_statistics_module(record, run_of, count):
    samples = [random.random() for _ in range(count)]
    other = [5.0, 1.0, 3.0]
    frame = series(run_of(record(samples=tuple(other), case="other"), record(samples=tuple(samples))))
    row = frame[frame["case"] == "prefill"].iloc[0]
    wanted = statistics.quantiles(samples, n=4, method="inclusive") if count > 1 else samples * 3
    assert [row["q1"], row["median"], row["q3"]] == pytest.approx(wanted, rel=1e-12)
    assert frame[frame["case"] == "other"].iloc[0]["median"] == 3.0


def test_equal_samples_give_exactly_that_value(record, run_of):
    row = series(run_of(record(samples=(0.1, 0.1, 0.1, 0.1)))).iloc[0]
    assert (row["q1"], row["median"], row["q3"]) == (0.1, 0.1, 0.1)


def test_launches_are_pooled_and_counted(record, run_of):
    frame = series(run_of(record(samples=(1.0, 2.0)), record(samples=(9.0,), launch="b")))
    assert len(frame) == 1
    assert frame.iloc[0][["median", "rounds", "launches"]].tolist() == [2.0, 3, 2]


@pytest.mark.parametrize(
    "field, value",
    [
        ("subject", "other"), ("impl", "other"), ("case_version", 2), ("metric", "energy"), ("basis", "counted"),
        ("scale", "slice"), ("convention", "causal"), ("precision", "bfloat16"), ("device", "cuda"),
        ("clock", "device-hot"),
    ],
)  # fmt: skip
def test_what_differs_is_never_pooled(record, run_of, field, value):
    frame = series(run_of(record(samples=(1.0,)), record(samples=(2.0,), **{field: value})))
    assert sorted(frame["median"]) == [1.0, 2.0]


def test_two_runs_are_never_pooled(record, run_of):
    frame = series(run_of(record(samples=(1.0,))), run_of(record(samples=(2.0,))))
    assert frame[["run", "median"]].values.tolist() == [[0, 1.0], [1, 2.0]]


def test_areas_stand_in_the_suites_order(record, run_of):
    frame = series(run_of(*(record(area=area) for area in reversed(AREAS))))
    assert frame["area"].tolist() == list(AREAS)


def test_what_was_not_measured_stands_by_reason(record, run_of):
    skips = [record(area="kernels", case=f"c{i}", status="skipped", why="needs a CUDA device") for i in range(9)]
    run = run_of(
        record(),
        *skips,
        record(area="kernels", status="failed", why="NaN"),
        record(area="fp8", status="skipped", why="x"),
    )
    records = measurements_frame([run])
    frame = untaken_frame(records)
    assert frame[["area", "status", "why", "records"]].values.tolist() == [
        ["fp8", "skipped", "x", 1],
        ["kernels", "failed", "NaN", 1],
        ["kernels", "skipped", "needs a CUDA device", 9],
    ]
    assert frame.iloc[2]["cases"] == "c0, c1, c2, c3, c4, c5 and 3 more"
    assert len(series(run)) == 1


def test_no_runs_and_no_records_give_empty_frames(run_of):
    for runs in ((), (run_of(),)):
        records = measurements_frame(runs)
        assert series_frame(runs, records).empty
        assert untaken_frame(records).empty
