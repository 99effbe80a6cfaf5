"""Tables of kernels: rates from the case's shape, ratios only where they hold, skips and failures with their reason."""

from __future__ import annotations

import json
import re

import pytest
from v3bench.kernels import tables
from v3bench.suite.ledger import cases, hardware
from v3bench.suite.report import kernel_tables, markdown, rooflines
from v3bench.suite.report.kernel_tables import KernelRun
from v3bench.suite.report.kernel_view import kernel_parts

GPU = {"name": "NVIDIA H200", "memory_bytes": 1, "capability": "9.0"}
MINE = "mine.kernels:gemm"


def speed_tables(run, of):
    return kernel_tables.speed_tables(KernelRun.of(run), of)


def steady(seconds):
    return tuple(seconds * (1 + 1e-4 * (i % 3)) for i in range(9))


@pytest.fixture
def timed(record):
    """A kernel's time, or its fate."""

    def made(impl, seconds=None, case="gemm-o-64", **fields):
        if seconds is not None:
            fields = {"samples": steady(seconds), **fields}
        given = {"area": "kernels", "case": case, "device": "cuda", "clock": "device-hot", "scale": "slice"}
        return record(**{**given, "subject": cases.load()[case].subjects[0], "impl": impl, **fields})

    return made


@pytest.fixture
def gpu_run(timed, run_of):
    def made(*measurements, **info):
        return run_of(*measurements, **{"device": "cuda", "gpus": [GPU], **info})

    return made


@pytest.fixture
def full(timed, gpu_run):
    """One case with every kind of outcome, one without products, and the ceilings."""
    n = 8192
    return gpu_run(
        timed("torch", 2 * 2 * 268435456 / 4e12, case="ceiling-copy"),
        timed("torch", 4 * 268435456 / 4.4e12, case="ceiling-read"),
        timed("torch", 2 * n**3 / 7.9e14, case="ceiling-bf16"),
        timed("torch", 2 * n**3 / 1.2e15, case="ceiling-fp8-block"),
        timed("torch", 2 * n**3 / 1.4e15, case="ceiling-fp8-rowwise"),
        timed("triton", 40e-6),
        timed("triton", metric="error_of_bar", samples=(0.25,), clock="none"),
        timed("cublaslt-block", 60e-6),
        timed("row-wise", samples=tuple(50e-6 * (1 + 0.02 * i) for i in range(9))),
        timed("deepgemm", status="skipped", why="deep_gemm is not installed"),
        timed(MINE, 80e-6),
        timed("compiled", status="failed", why="its error is 7 times what is allowed"),
        timed("triton", 25e-6, case="quantize-4096"),
    )


def rows(table):
    """A table's rows by implementation, its columns by heading."""
    heads = [column.label for column in table.columns]
    return {row[1]: dict(zip(heads, row, strict=True)) for row in table.cells}


def test_a_row_says_time_rates_share_ratio_error_and_what_was_published(full):
    of = rooflines.ceilings(full)
    gemm, quantize = sorted(speed_tables(full, of), key=lambda table: table.caption)
    assert gemm.caption == "fp8_gemm"
    row = rows(gemm)["triton"]
    assert row["Case"] == "gemm-o-64: M=64 N=7168 K=16384"
    assert row["Time, us"] == "40.00"
    assert row["TFLOP/s"] == "375.8"  # 2 x 64 x 7168 x 16384 / 40 us
    assert row["TB/s"] == "2.99"  # 119.6 MB in 40 us
    assert row["Of roofline"] == "68%"  # 2.99 of 4.4, reading
    assert row["Bound by"] == "memory"
    assert row["FLOP/B"] == "125.8"
    assert row["Error, of allowed"] == "0.25"
    assert "336 TFLOP/s (DeepGEMM, H800, cold, kernel only)" in row["Published elsewhere"]
    assert rows(quantize)["triton"]["Of roofline"] == "89%"  # 89.0 MB in 25 us of 4.0 TB/s, copying
    assert "TFLOP/s" not in {column.label for column in quantize.columns}


def test_sentences_stand_below_their_row_and_only_where_there_are_any(full, judged):
    from v3bench.suite.report import page

    full.info["gpus"] = [{**GPU, "sms": 132, "l2_bytes": 1}]
    html = page.render([full], judged)
    table = html[html.index(">fp8_gemm</caption>") :]
    table = table[: table.index("</table>")]
    heads = table.count('<th scope="col"')
    below = re.findall(r'<tr class="below"><td colspan="(\d+)"><p><span class="soft">(.*?)</span> (.*?)</p>', table)
    assert [(int(wide), label) for wide, label, _ in below] == [
        (heads, "Published elsewhere:"), (heads, "Not timed because:"), (heads, "Not timed because:"),
    ]  # fmt: skip
    assert "336 TFLOP/s (DeepGEMM, H800, cold, kernel only)" in below[0][2]
    assert "Published elsewhere" not in table[: table.index("</thead>")]


def test_a_product_is_shown_with_the_quantisation_of_its_input(timed, gpu_run):
    run = gpu_run(timed("triton", 40e-6), timed("bf16", 50e-6), timed("triton", 5e-6, case="quantize-64-wide"))
    table = speed_tables(run, rooflines.ceilings(run))[-1]
    assert rows(table)["triton"]["With quantisation, us"] == "45.00"
    assert rows(table)["bf16"]["With quantisation, us"] == "–"


def test_energy_stands_where_it_was_taken(timed, gpu_run):
    joules = {"metric": "energy_per_call", "clock": "none", "case": "gemm-o-4096"}
    run = gpu_run(
        timed("triton", 8e-4, case="gemm-o-4096"), timed("triton", samples=(0.45678,), **joules),
        timed("bf16", 16e-4, case="gemm-o-4096"), timed("triton", 25e-6, case="quantize-4096"),
    )  # fmt: skip
    quantize, gemm = speed_tables(run, rooflines.ceilings(run))
    assert rows(gemm)["triton"]["Energy, mJ"] == "456.78"
    assert rows(gemm)["bf16"]["Energy, mJ"] == "–"
    assert "Energy, mJ" not in rows(quantize)["triton"]


def test_what_the_launch_table_predicted_stands_apart(timed, gpu_run, monkeypatch):
    shape = tuple(sorted(cases.load()["gemm-o-64"].dimensions.items()))
    known = {shape: (33e-6, "3.7.1")}
    monkeypatch.setattr(kernel_tables, "predictions", lambda op, device: known if op == "fp8_gemm" else {})
    records = timed("triton", 40e-6), timed("triton", 50e-6, case="gemm-o-16")
    for had, told in (("3.7.1", ""), ("3.6.0", " (this run has 3.6.0)")):
        run = gpu_run(*records, packages={"triton": had})
        (table,) = speed_tables(run, rooflines.ceilings(run))
        column = [column.label for column in table.columns].index("Modelled, us")
        assert [row[column] for row in table.cells] == ["33.00", "–"]
        assert f"Modelled: what the code that Triton 3.7.1{told} makes predicts for an H200" in table.notes


def test_the_prediction_is_of_the_row_that_the_gpu_launches_with(tmp_path, monkeypatch):
    (tmp_path / "tables").mkdir()
    rows = [
        {"device": name, "shape": {"M": 1}, "triton": "3.7.1", "predicted": {"seconds": s}}
        for name, s in (("A", 1.0), ("sm_90", 2.0))
    ]
    (tmp_path / "tables" / "x.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(kernel_tables.kernels, "__file__", str(tmp_path / "__init__.py"))
    assert [list(kernel_tables.predictions("x", name).values()) for name in ("A", "B")] == [
        [(1.0, "3.7.1")],
        [(2.0, "3.7.1")],
    ]
    assert kernel_tables.HOPPER == tables.HOPPER
    assert kernel_tables.predictions("y", "A") == {}


def test_rivals_stand_beside_ours_and_ones_own_with_intervals_or_without_a_claim(full):
    gemm = speed_tables(full, rooflines.ceilings(full))[-1]
    found = rows(gemm)
    assert found["cublaslt-block"]["Takes, over triton"].startswith("1.50\u00a0× (1.50\u00a0to\u00a01.50)")
    assert found["cublaslt-block"][f"Takes, over {MINE}"].startswith("0.75\u00a0×")
    assert found[MINE]["Takes, over triton"].startswith("2.00\u00a0×")
    assert found["row-wise"]["Takes, over triton"].startswith("no claim: ")
    assert "%" in found["row-wise"]["Takes, over triton"]
    assert list(found) == ["triton", "cublaslt-block", "row-wise", "deepgemm", "compiled", MINE]


def test_what_was_not_timed_says_why_and_has_no_number(full):
    found = rows(speed_tables(full, rooflines.ceilings(full))[-1])
    assert found["deepgemm"]["Not timed because"] == "skipped: deep_gemm is not installed"
    assert found["compiled"]["Not timed because"] == "failed: its error is 7 times what is allowed"
    for impl in ("deepgemm", "compiled"):
        assert found[impl]["Time, us"] == found[impl]["Of roofline"] == "–"


def test_ratios_are_of_one_launch_only(timed, gpu_run):
    run = gpu_run(timed("triton", 1e-5), timed("cublaslt-block", 2e-5, launch="b"))
    (table,) = speed_tables(run, rooflines.ceilings(run))
    assert rows(table)["cublaslt-block"]["Takes, over triton"] == "no claim: not timed in one launch"


def test_ceilings_are_the_runs_own_before_the_datasheets(full, gpu_run):
    of = rooflines.ceilings(full)
    assert (of.copy, of.read, of.bf16, of.fp8) == pytest.approx((4e12, 4.4e12, 7.9e14, 1.4e15), rel=1e-3)
    assert set(of.source.values()) == {"measured in this run"}
    sheet = rooflines.ceilings(gpu_run())
    specs = hardware.load()["h200-sxm"].specs
    assert (sheet.copy, sheet.fp8) == (specs["bandwidth"].si, specs["fp8"].si)
    assert set(sheet.source.values()) == {"datasheet"}
    other = rooflines.ceilings(gpu_run(gpus=[{**GPU, "name": "A card"}]))
    assert (other.copy, other.bf16, other.source["fp8"]) == (None, None, "unknown")


def test_without_a_known_ceiling_no_share_is_said(timed, gpu_run):
    run = gpu_run(timed("triton", 1e-5), gpus=[{**GPU, "name": "A card"}])
    (table,) = speed_tables(run, rooflines.ceilings(run))
    assert "Of roofline" not in {column.label for column in table.columns}
    assert (
        kernel_tables.ceiling_table(KernelRun.of(run), rooflines.ceilings(run)).notes
        == "No ceiling of this device is known."
    )


def test_products_bind_where_they_take_longer_than_memory(timed, gpu_run):
    run = gpu_run(timed("triton", 800e-6, case="gemm-o-4096"))
    (table,) = speed_tables(run, rooflines.ceilings(run))
    row = rows(table)["triton"]
    assert (row["Bound by"], row["Of roofline"]) == ("products", "61%")  # 962 GFLOP in 800 us of 1979 TFLOP/s


def test_a_result_of_another_version_of_the_case_is_left_out(timed, gpu_run):
    run = gpu_run(timed("triton", 1e-5, case_version=99))
    assert speed_tables(run, rooflines.ceilings(run)) == []


def test_a_run_on_a_cpu_has_checks_and_what_needs_a_gpu(timed, run_of):
    check = {"case": "interpret-quantize", "metric": "error_of_bar", "device": "cpu", "clock": "none"}
    checked = timed("triton", **check, samples=(0.0,), convention="interpreted, 3 small shapes")
    skipped = timed("triton", status="skipped", why="needs a CUDA device", device="cpu")
    (part,) = kernel_parts([run_of(checked, skipped)], "")
    assert [table.caption for table in part["tables"]] == ["Correctness", "Not timed in this run"]
    assert part["charts"] == []
    checks, untimed = part["tables"]
    assert checks.cells == [["quantize_tiles", "triton", "0", "interpreted, 3 small shapes", "interpret-quantize"]]
    assert {row[2] for row in untimed.cells} == {"needs a CUDA device"}
    assert sum(int(row[1]) for row in untimed.cells) == len(kernel_tables.timed_cases())


def test_no_chapter_without_kernels(record, run_of):
    assert kernel_parts([run_of(record())], "") == []
    assert kernel_parts([], "") == []


def test_a_wrong_kernel_stands_in_the_checks_with_its_reason(timed, gpu_run):
    wrong = timed(MINE, status="failed", why="at M=5: its error is 3 times what is allowed", case="check-gemm",
                  metric="error_of_bar")  # fmt: skip
    assert kernel_tables.check_table(KernelRun.of(gpu_run(wrong))).cells == [
        ["fp8_gemm", MINE, "failed", "at M=5: its error is 3 times what is allowed", "check-gemm"]
    ]


def test_ones_own_that_fails_after_a_change_no_longer_stands_with_its_old_time(timed, gpu_run):
    late = {"status": "failed", "why": "its error is 3 times what is allowed"}
    run = gpu_run(timed("triton", 40e-6), timed(MINE, 30e-6), timed("triton", **late), timed(MINE, **late))
    row = rows(speed_tables(run, rooflines.ceilings(run))[-1])
    assert (row["triton"]["Time, us"], row[MINE]["Time, us"]) == ("40.00", "–")
    assert row[MINE]["Not timed because"] == f"failed: {late['why']}"
    run = gpu_run(timed(MINE, **late), timed(MINE, 30e-6), timed(MINE, status="skipped", why="no room"))
    assert rows(speed_tables(run, rooflines.ceilings(run))[-1])[MINE]["Time, us"] == "30.00"


def test_several_runs_stand_apart(full, gpu_run, timed):
    (part,) = kernel_parts([full, gpu_run(timed("triton", 1e-5))], "")
    captions = [table.caption for table in part["tables"]]
    assert captions.count("fp8_gemm, run 1") == captions.count("fp8_gemm, run 2") == 1


def test_the_tables_are_markdown_too(full):
    table = speed_tables(full, rooflines.ceilings(full))[-1]
    lines = markdown.render(table).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_the_roofline_has_a_point_a_case_and_a_line_a_roof(full):
    pytest.importorskip("altair", reason="charts need altair")
    from v3bench.suite.report import roofline_chart

    of = rooflines.ceilings(full)
    frame = roofline_chart.points(KernelRun.of(full), of)
    assert frame["impl"].tolist() == ["triton", MINE]  # nothing of rivals, nor of what has no products
    assert frame["intensity"].tolist() == pytest.approx([125.6] * 2, rel=1e-2)
    lines = roofline_chart.roofs(of)
    assert lines.groupby("roof").size().to_dict() == {"FP8": 3, "bfloat16": 3}
    ridge = lines[lines["roof"] == "FP8"].iloc[1]
    assert (ridge["intensity"], ridge["rate"]) == pytest.approx((1.4e15 / 4.4e12, 1400), rel=1e-3)
    drawn = roofline_chart.roofline(KernelRun.of(full), of)
    assert drawn.id == "kernels-roofline"
    assert "measured in this run" in drawn.note
    assert roofline_chart.roofline(KernelRun(full, {}), of) is None
