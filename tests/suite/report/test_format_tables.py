"""The report on narrow formats: a row for each, nothing mixed."""

from __future__ import annotations

import pytest
from v3bench.suite.ledger import cases
from v3bench.suite.report.format_tables import format_tables


@pytest.fixture
def made(record):
    """A record as the benchmarks keep it."""

    def one(case, subject, impl, metric, value, convention):
        return record(
            area="fp8", case=case, case_version=cases.load()[case].version, subject=subject, impl=impl, metric=metric,
            samples=(value,), convention=convention, clock="none",
        )  # fmt: skip

    return one


def test_a_cache_s_formats_by_length(made):
    metric, case = "kv_bytes_per_token_and_layer", "cache-error-mla"
    records = [
        made(case, "deepseek-v3", name, *rest)
        for name, error, nbytes in (("bf16", 0.00123, 1152), ("fp8", 0.0123, 656))
        for length in (128, 512)
        for rest in (
            ("relative_error", error * length / 128, f"root mean square; {length} tokens; outlier-channels"),
            ("cosine", 0.9, f"all heads; {length} tokens; outlier-channels"),
            (metric, nbytes, f"{length} tokens; outlier-channels"),
        )
    ]
    (table,) = format_tables(records, "")
    assert [column.label for column in table.columns] == [
        "Format", "B per token", "128 tokens; outlier-channels, %", "512 tokens; outlier-channels, %",
    ]  # fmt: skip
    assert table.cells == [["bf16", "1,152", "0.123", "0.492"], ["fp8", "656", "1.23", "4.92"]]
    assert "Why: " in table.note


def test_retrieval_by_distance_with_chance_beside_it(made):
    records = [
        made("retrieval-mla", "deepseek-v3-tiny", name, "retrieval_accuracy", value, f"{place}; chance 0.25; 1 layers")
        for name, near, far in (("bf16", 0.991, 0.983), ("window-8", 0.962, 0.241))
        for place, value in (("1 to 8 tokens back", near), ("9 to 64 tokens back", far))
    ]
    (table,) = format_tables(records, ", run 2")
    assert table.caption == "Retrieval, deepseek-v3-tiny, run 2"
    assert table.cells == [["bf16", "99.1", "98.3"], ["window-8", "96.2", "24.1"]]
    assert "Chance: 25" in table.note


def test_messages_by_stage_and_distribution(made):
    records = [
        made("transport-combine", name, "torch", *rest)
        for name, error, nbytes in (("logfmt-8", 0.0142, 1.0625), ("e4m3", 0.0257, 1.03125))
        for rest in (
            ("relative_error", error, "root mean square; combine; gaussian"),
            ("bytes_per_value", nbytes, "combine; gaussian"),
            ("value_error", 1.0, "combine; gaussian"),
        )
    ]
    (table,) = format_tables(records, "")
    assert [column.label for column in table.columns] == ["Format", "B per value", "combine, gaussian, %"]
    assert table.cells == [["logfmt-8", "1.062", "1.42"], ["e4m3", "1.031", "2.57"]]


def test_a_run_without_them_has_no_table(made, record):
    assert format_tables([record()], "") == []
    other = made("transport-combine", "e4m3", "torch", "relative_error", 0.5, "root mean square; combine; gaussian")
    stale = type(other)(**{**vars(other), "case_version": other.case_version + 1})
    assert format_tables([stale], "") == []
