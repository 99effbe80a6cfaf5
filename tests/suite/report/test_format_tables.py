"""The report on narrow formats: a row for each, nothing mixed."""

from __future__ import annotations

import pytest
from v3bench.suite.ledger import cases
from v3bench.suite.report.display import MISSING
from v3bench.suite.report.format_tables import format_tables

END = "trained on 61440 tokens of stdlib abc"


@pytest.fixture
def made(record):
    """A record as the benchmarks keep it."""

    def one(case, subject, impl, metric, value, convention):
        return record(
            area="fp8", case=case, case_version=cases.load()[case].version, subject=subject, impl=impl, metric=metric,
            samples=(value,), convention=convention, clock="none",
        )  # fmt: skip

    return one


def row(table, name):
    """A row's cells by their column's heading."""
    (cells,) = (cells for cells in table.cells if cells[0] == name)
    return dict(zip([column.label for column in table.columns], cells, strict=True))


def test_a_cache_s_formats_by_length(made):
    metric, case = "kv_bytes_per_token_and_layer", "cache-error-mla"
    records = [
        made(case, "deepseek-v3", name, *rest)
        for name, error, nbytes in (("bf16", 0.00123, 1152), ("fp8", 0.0123, 656))
        for length in (128, 512)
        for rest in (
            ("relative_error", error * length / 128, f"root mean square; {length} tokens; outlier-channels"),
            ("worst_row_error", 2 * error * length / 128, f"a row is a head; {length} tokens; outlier-channels"),
            ("cosine", 1 - error / length, f"all heads; {length} tokens; outlier-channels"),
            ("cosine", 0.5, f"worst head; {length} tokens; outlier-channels"),
            (metric, nbytes + 512 - length, f"{length} tokens; outlier-channels"),
        )
    ]
    (table,) = format_tables(records[::-1], "")
    assert table.caption == "Cache formats, deepseek-v3, outlier-channels"
    assert sorted(column.label for column in table.columns) == sorted([
        "Format", "B per token", "128 tokens, %", "512 tokens, %",
        "Worst head, 512 tokens, %", "1 − cosine, 512 tokens",
    ])  # fmt: skip
    assert row(table, "bf16") == {
        "Format": "bf16", "B per token": "1,152", "128 tokens, %": "0.123",
        "512 tokens, %": "0.492", "Worst head, 512 tokens, %": "0.984",
        "1 − cosine, 512 tokens": "2.4 × 10⁻⁶",
    }  # fmt: skip
    assert row(table, "fp8")["B per token"] == "656"
    assert "Why: " in table.note


def test_what_windows_lose_of_the_attention(made):
    records = [
        made("cache-error-mla", "deepseek-v3", "bf16", "cosine", 0.9999, "all heads; 2048 tokens; gaussian"),
        *(
            made("cache-error-mla", "deepseek-v3", name, "attention_lost", value, f"{which}; {length} tokens; gaussian")
            for name, far in (("window-1024", 0.5012), ("window-1024-sinks-4", 0.4012))
            for which, more in (("mean of the heads", 0.0), ("worst head", 0.1))
            for length, value in ((512, 0.0), (2048, far + more))
        ),
    ]
    cost, lost = format_tables(records, "")
    assert [cells[0] for cells in cost.cells] == ["bf16", "window-1024", "window-1024-sinks-4"]
    assert lost.caption == "Attention lost to windows, deepseek-v3, gaussian"
    labels = ["Format", "512 tokens, %", "2048 tokens, %", "Worst head, 2048 tokens, %"]
    assert [column.label for column in lost.columns] == labels
    assert lost.cells == [["window-1024", "0", "50.1", "60.1"], ["window-1024-sinks-4", "0", "40.1", "50.1"]]


def test_of_several_layers_the_worst_is_shown(made):
    records = [
        made("cache-error-recorded-mla", "proxy.v3-2m", "fp8", metric, value, f"{which}; 128 tokens; layer {i}; {END}")
        for metric, which, values in (
            ("relative_error", "root mean square", (0.0101, 0.0202)),
            ("worst_row_error", "a row is a head", (0.0404, 0.0303)),
            ("cosine", "all heads", (0.999, 0.9998)),
        )
        for i, value in enumerate(values)
    ]  # fmt: skip
    (table,) = format_tables(records, "")
    assert table.caption == "Cache formats, proxy.v3-2m"
    assert [column.label for column in table.columns][2:4] == ["128 tokens; layer 0, %", "128 tokens; layer 1, %"]
    assert table.cells == [["fp8", MISSING, "1.01", "2.02", "4.04", "0.00100"]]


def test_retrieval_by_distance_with_chance_beside_it(made):
    records = [
        made("retrieval-mla", "deepseek-v3-tiny", name, "retrieval_accuracy", value, f"{place}; chance 0.25; 1 layers")
        for name, near, far in (("bf16", 0.991, 0.983), ("window-8", 0.962, 0.241))
        for place, value in (("1 to 8 tokens back", near), ("9 to 64 tokens back", far))
    ]
    records += [
        made("retrieval-mla", "deepseek-v3-tiny", "bf16", "answer_loss", 0.0312, "chance 0.25; 1 layers"),
        made("retrieval-mla", "deepseek-v3-tiny", "window-8", "answer_loss", 2.5, "chance 0.25; 1 layers"),
    ]
    (table,) = format_tables(records, ", run 2")
    assert table.caption == "Retrieval, deepseek-v3-tiny, run 2"
    assert table.cells == [["bf16", "99.1", "98.3", "0.0312"], ["window-8", "96.2", "24.1", "2.50"]]
    assert "Chance: 25" in table.note


def test_messages_by_stage_and_distribution(made):
    records = [
        made("transport-combine", name, "torch", *rest)
        for name, error, nbytes in (("logfmt-8", 0.0142, 1.0625), ("e4m3", 0.0257, 1.03125))
        for rest in (
            ("relative_error", error, "root mean square; combine; gaussian"),
            ("bytes_per_value", nbytes, "combine; gaussian"),
            ("value_error", 2 * error, "combine; gaussian"),
        )
    ]
    (table,) = format_tables(records, "")
    assert [column.label for column in table.columns] == [
        "Format", "B per value", "combine, gaussian, %", "combine, gaussian, each value, %",
    ]  # fmt: skip
    assert table.cells == [["logfmt-8", "1.062", "1.42", "2.84"], ["e4m3", "1.031", "2.57", "5.14"]]


def test_a_run_without_them_has_no_table(made, record):
    assert format_tables([record()], "") == []
    other = made("transport-combine", "e4m3", "torch", "relative_error", 0.5, "root mean square; combine; gaussian")
    stale = type(other)(**{**vars(other), "case_version": other.case_version + 1})
    assert format_tables([stale], "") == []
