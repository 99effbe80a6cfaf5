"""What the page says of a run: its values in their units, its machine, and what a reader must know first."""

from v3bench.suite.report.frames import measurements_frame
from v3bench.suite.report.run_tables import (
    environment_table,
    measured_tables,
    segments_table,
    untaken_table,
    warnings,
)


def test_values_stand_in_their_metrics_unit_with_what_they_depend_on(run):
    tables = {table.caption: table.cells for table in measured_tables([run], measurements_frame([run]))}
    assert list(tables) == ["The model", "KV cache"]
    assert tables["The model"][0] == [
        "deepseek-v3-small", "11.50\u00a0ms", "10.75 to 12.50", "time", "float32", "measured, proxy", "cpu, host",
        "prefill", "torch", "4",
    ]  # fmt: skip
    # Without a spread, no column for it.
    assert tables["KV cache"][0][1:5] == ["70,272\u00a0B", "kv_bytes_per_token", "bf16, float32", "counted, full"]


def test_several_launches_and_runs_are_named(record, run_of):
    runs = [run_of(record(), record(launch="b")), run_of(record())]
    (table,) = measured_tables(runs, measurements_frame(runs))
    assert [(row[-2], row[-1]) for row in table.cells] == [("2 in 2 launches", "1"), ("1", "2")]


def test_reasons_are_given(run):
    assert [row[:3] for row in untaken_table(measurements_frame([run])).cells] == [
        ["fp8", "failed", "loss was NaN"],
        ["kernels", "skipped", "needs a CUDA device"],
    ]


def test_the_machine_and_every_package_are_named(run, run_of):
    card = {"name": "Example GPU", "memory_bytes": 80_000_000_000, "capability": "9.0", "sms": 132}
    gpu = run_of(gpus=[{**card, "l2_bytes": 50_000_000}, {**card, "l2_bytes": None}], device="cuda")
    rows = {row[0]: row[1:] for row in environment_table([run, gpu]).cells}
    assert rows["Device"] == ["cpu: Example CPU, 2 cores", "cuda: Example GPU, Example GPU"]
    assert rows["GPU 0"] == ["\u2013", "Example GPU, 80.0 GB, compute capability 9.0, 132 SMs, 50 MB of L2"]
    assert rows["GPU 1"] == ["\u2013", "Example GPU, 80.0 GB, compute capability 9.0"]
    assert rows["torch"] == ["2.13.0", "2.13.0"]
    assert rows["Lock, sha256"][0] == "ab" * 32
    assert segments_table([run]).cells[0][:4] == ["1", "v3bench run", "quick", "model, kv_cache"]


def test_a_clean_whole_run_needs_no_warning(record, run_of):
    assert warnings([run_of(record())]) == []


def test_dirty_uncommitted_cut_and_failed_runs_do(record, run_of, run):
    (dirty,) = warnings([run_of(record(), dirty=True)])
    assert "uncommitted changes" in dirty
    (outside,) = warnings([run_of(record(), commit=None)])
    assert "no commit names its code" in outside
    (cut,) = warnings([run_of(segments=[{**run.info["segments"][0], "end": None}])])
    assert "cut short" in cut
    (failed,) = warnings([run])
    assert "1 failed measurement;" in failed
