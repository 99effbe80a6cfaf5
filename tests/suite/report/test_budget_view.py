"""The chapter on FP8's error budget: the model without a run, a run's records where there is one, nothing made up."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from v3bench.suite.budget import accumulation, gemm
from v3bench.suite.laws.numerics import accumulation_error
from v3bench.suite.ledger import cases
from v3bench.suite.meter.scale import TENSOR_CORE
from v3bench.suite.report import accumulation_chart, budget_view
from v3bench.suite.report.bundle import available
from v3bench.suite.report.context import page_context
from v3bench.suite.report.display import MISSING


def tables(*runs):
    (part,) = budget_view.budget_parts(runs, "no charts")
    return {table.caption: table for table in part["tables"]}


def row(table, name):
    """A row's cells by their column's heading."""
    (cells,) = (cells for cells in table.cells if cells[0] == name)
    return dict(zip([column.label for column in table.columns], cells, strict=True))


@pytest.fixture
def fp8(record):
    """A record of the area as the benchmarks keep it."""

    def made(case, subject, metric, value, convention="", **fields):
        given = {"area": "fp8", "case": case, "subject": subject, "metric": metric, "convention": convention}
        return record(**{**given, "samples": (value,), "clock": "none", **fields})

    return made


@pytest.fixture
def core(fp8):
    """A record of a GPU's tensor core."""

    def made(impl, kind, k, value):
        fields = {"impl": impl, "device": "cuda", "scale": "full"}
        convention = accumulation.convention(impl, kind, k)
        return fp8(f"accumulation-{kind}", TENSOR_CORE, "relative_error", value, convention, **fields)

    return made


def test_without_a_run_there_is_the_model():
    lengths, intervals = tables().values()
    assert row(lengths, "4,096") == {
        "K": "4,096",
        "unpromoted, uniform, modelled, %": "7.70", "unpromoted, normal, modelled, %": "0.405",
        "promoted, uniform, modelled, %": "0.0613", "promoted, normal, modelled, %": "0.0303",
    }  # fmt: skip
    assert len(lengths.cells) == len(accumulation_chart.LENGTHS)
    assert [cells[0] for cells in intervals.cells] == ["32", "64", "128", "256", "512", "never"]
    assert row(intervals, "never")["uniform, 14 bits, %"] == "3.65"
    assert row(intervals, "128")["normal, 13 bits, %"] == "0.0303"


def test_what_a_gpu_measured_stands_beside_the_model(core, run_of):
    run = run_of(core("unpromoted", "uniform", 4096, 0.0123), core("promoted", "normal", 512, 4e-4))
    table = tables(run)["Error of a sum of K products of FP8, 13 fraction bits"]
    assert row(table, "4,096")["unpromoted, uniform, measured, %"] == "1.23"
    assert row(table, "4,096")["promoted, normal, measured, %"] == MISSING
    assert row(table, "512")["promoted, normal, measured, %"] == "0.0400"
    assert "promoted, uniform, measured, %" not in [column.label for column in table.columns]
    two = tables(run, run)["Error of a sum of K products of FP8, 13 fraction bits"]
    assert row(two, "4,096")["unpromoted, uniform, measured, run 2, %"] == "1.23"


def test_a_quantiser_s_row(fp8, run_of):
    name = "quantiser.e4m3-1x128"
    run = run_of(
        fp8("quantiser-laplace", name, "relative_error", 0.025, "root mean square"),
        fp8("quantiser-laplace", name, "signal_to_noise", 32.04),
        fp8("quantiser-laplace", name, "cosine", 0.9997),
        fp8("quantiser-laplace", name, "flushed", 0.001),
        fp8("quantiser-laplace", name, "clipped", 0.0),
        fp8("quantiser-laplace", "quantiser.bf16-unscaled", "relative_error", 1.0, "root mean square", case_version=9),
    )
    table = tables(run)["Quantisers, laplace"]
    assert row(table, "e4m3-1x128") == {
        "Quantiser": "e4m3-1x128", "Relative error, %": "2.50", "Signal to noise, dB": "32.0", "1 − cosine": "0.000300",
        "Flushed to zero, %": "0.100", "Clipped, %": "0",
    }  # fmt: skip
    assert len(table.cells) == 1, "of another version of the case, or nothing"
    assert "Quantisers, gaussian" not in tables(run)


def test_a_product_s_row_has_every_source_by_its_own_name(fp8, run_of):
    assert tuple(budget_view.SOURCES) == gemm.SOURCES
    run = run_of(*(
        fp8("gemm-error-7168", "gemm.fp8", "relative_error", 0.0111 * (i + 1), f"root mean square; {source}")
        for i, source in enumerate(gemm.SOURCES)
    ))  # fmt: skip
    table = tables(run)["Products, forward, K = 7,168, gaussian"]
    assert table.cells == [["fp8", *(f"{1.11 * (i + 1):.2f}" for i in range(len(gemm.SOURCES))), MISSING, MISSING]]


def test_the_benchmark_s_own_records_are_found():
    """Conventions are text: what the page looks up is what the benchmark writes."""
    bench_fp8 = pytest.importorskip("v3bench.suite.bench.bench_fp8")
    assert bench_fp8.ROOT_MEAN_SQUARE == budget_view.NORM
    assert {case.bench for case in cases.load().values() if case.area == "fp8"} >= set(budget_view.TABLES)


def test_the_report_needs_no_torch():
    """A report is rendered where nothing of the models can run; what training it reads of is told without them."""
    ask = "import sys; from v3bench.suite.report import context; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", ask], timeout=120, check=False).returncode == 0


def test_a_run_without_the_area_adds_nothing(run):
    assert list(tables(run)) == list(tables())


@pytest.mark.skipif(not available(), reason="charts need altair")
def test_the_chart_holds_the_tables_numbers_and_the_published_one(core, run_of):
    run = run_of(core("unpromoted", "uniform", 4096, 0.0123))
    (part,) = budget_view.budget_parts([run], "")
    (drawing,) = part["charts"]
    rows = [one for data in drawing.spec["datasets"].values() for one in data]
    drawn = {(one.get("basis"), one.get("series"), one["K"]): one["error"] for one in rows}
    assert drawn["measured", "unpromoted, uniform", 4096] == 1.23
    assert drawn[None, None, 4096] == 2
    for k in accumulation_chart.LENGTHS:
        want = 100 * accumulation_error(13, k, 128, "normal")
        assert math.isclose(drawn["modelled", "promoted, normal", k], want, rel_tol=1e-5)
    assert "Diamonds: measured" in drawing.note
    assert "Diamonds" not in accumulation_chart.accumulation_chart([]).note
    assert '"url"' not in json.dumps(drawing.spec, allow_nan=False)


def test_the_chapter_is_on_the_page(run, judged):
    found = page_context([run], judged)
    assert {"id": "fp8-budget", "title": "FP8 error budget"} in found["contents"]
    assert [part["id"] for part in found["model_parts"]].count("fp8-budget") == 1
