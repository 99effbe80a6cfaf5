"""The report on paired runs: what is judged and what cannot be, where in the runs a gap lies, and its context."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import stdev

import pytest
from v3bench.suite.ledger import cases
from v3bench.suite.report import loss_chart, paired_runs
from v3bench.suite.report.bundle import available
from v3bench.suite.report.display import MISSING
from v3bench.suite.train.gap import COARSER, NO_POWER, detectable

QUICK = "loss-gap-quick"
SHARED, STEPS, WINDOW = (cases.load()[QUICK].shape[key] for key in ("shared", "steps", "window"))
GAPS = {"bf16": (0.0001, -0.0002, 0.0002), "fp8": (0.0001, 0.0002, 0.0000), "control-2-bit": (0.004, 0.005, 0.006)}
COARSE = (0.02, 0.021, 0.022)


@pytest.fixture
def kept(record):
    """Records of a case's gaps, and of its runs."""

    def made(gaps, case=QUICK, corpus="abc", runs=None):
        fields = {"area": "fp8", "case": case, "case_version": cases.load()[case].version, "clock": "none"}
        fields |= {"impl": "emulated", "scale": "proxy"}
        about = f"against bf16, second half of {STEPS} steps behind {SHARED} shared ones; corpus {corpus}"
        late = [
            record(**fields, subject=f"proxy.{name}", metric="loss_gap", samples=values, convention=about)
            for name, values in gaps.items()
        ]
        return late + [
            record(
                **fields, subject=f"proxy.{name}", metric="run_loss", samples=tuple(losses),
                convention=f"{of}seed {seed}; corpus {corpus}",
            )
            for (name, seed, of), losses in (runs or {}).items()
        ]  # fmt: skip

    return made


def row(table, name):
    """A row's cells by their column's heading."""
    (cells,) = (cells for cells in table.cells if cells[0] == name)
    return dict(zip([column.label for column in table.columns], cells, strict=True))


def test_the_rule_s_outcome_stands_beside_the_gap(kept):
    (one,) = paired_runs.paired(kept(GAPS))
    assert one.gaps == GAPS
    table = loss_chart.gap_table(one, "")
    floor, fp8 = row(table, "bf16 against fp32 (floor)"), row(table, "fp8")
    assert floor["Outcome"] == floor["Against the 2-bit control"] == floor["Seen from, %"] == MISSING
    assert (fp8["Mean gap, %"], fp8["Outcome"]) == ("+0.010", "indistinguishable from the floor")
    assert fp8["Against the 2-bit control"].startswith("separated: 0.490% apart")
    assert fp8["Against the bar"] == MISSING
    assert (fp8["Less the floor: low, %"], fp8["Less the floor: high, %"]) == ("−0.045", "+0.058")
    assert fp8["Seen from, %"] == f"{100 * stdev([0.0, 0.0004, -0.0002]) * detectable(3):.3f}"


def test_a_gap_that_may_lie_above_the_bar_says_so(kept):
    (one,) = paired_runs.paired(kept(GAPS | {"fp8": (-0.004, 0.0001, 0.004)}))
    fp8 = row(loss_chart.gap_table(one, ""), "fp8")
    assert fp8["Outcome"] == "indistinguishable from the floor"
    assert fp8["Against the bar"] == "the interval reaches beyond 0.25%: a gap above the bar is not excluded"
    assert NO_POWER in fp8["Against the 2-bit control"]


def test_a_coarser_control_need_not_be_told_from_the_finer(kept):
    (one,) = paired_runs.paired(kept(GAPS | {"control-1-bit": COARSE, "fp8-per-tensor": COARSE}))
    table = loss_chart.gap_table(one, "")
    assert row(table, "control-1-bit")["Outcome"] == "exceeds"
    assert row(table, "control-1-bit")["Against the 2-bit control"] == MISSING
    assert row(table, "fp8-per-tensor")["Against the 2-bit control"].startswith(f"{COARSER}: 1.600% apart")


def test_runs_on_different_texts_are_never_held_against_each_other(kept):
    other = {"fp8": (0.01, 0.01, 0.02)}
    one, two = paired_runs.paired(kept(GAPS) + kept(other, corpus="def"))
    assert (one.gaps, two.gaps) == (GAPS, other)
    assert (one.name, two.name) == (f"{QUICK}, corpus abc", f"{QUICK}, corpus def")
    assert one.anchor != two.anchor
    fp8 = row(loss_chart.gap_table(two, ""), "fp8")
    assert fp8["Outcome"] == "none: no floor and no 2-bit control beside it"


def test_seeds_that_do_not_pair_give_the_reason(kept):
    (one,) = paired_runs.paired(kept(GAPS | {"fp8": (0.0001,) * 4}))
    cells = row(loss_chart.gap_table(one, ""), "fp8")
    assert cells["Outcome"] == "none: 4 seeds beside 3 of the floor and 3 of the control"
    (few,) = paired_runs.paired(kept({name: values[:2] for name, values in GAPS.items()}))
    assert row(loss_chart.gap_table(few, ""), "fp8")["Outcome"] == "none: fewer than 3 seeds"


def test_what_a_pair_shares_is_said():
    shape = {"steps": 32, "shared": 300, "batch": 8, "length": 128, "rate": 1e-3, "warmup": 30, "window": 4}
    case = replace(cases.load()[QUICK], name="any", shape=shape)
    table = loss_chart.gap_table(paired_runs.Paired(case, "abc", gaps=GAPS), "")
    assert table.caption == "Gap of training loss over the last 32 of 332 steps, any"
    assert table.note.startswith(
        "332 steps of 8 × 128 tokens: the first 300 in FP32, common to all runs of a seed; a pair differs in the last "
        "32 alone, whose learning rate goes from 0.00012 to 0.0001, of at most 0.001."
    )


def test_without_shared_steps_a_pair_differs_from_the_first():
    shape = {"steps": 100, "batch": 4, "length": 128, "rate": 1e-3, "warmup": 20, "window": 10}
    case = replace(cases.load()[QUICK], name="any", shape=shape)
    table = loss_chart.gap_table(paired_runs.Paired(case, "abc", gaps=GAPS), "")
    assert table.caption == "Gap of training loss from the first step, any"
    assert table.note.startswith("100 steps of 4 × 128 tokens; the runs of a seed begin from the same weights and diff")
    assert "FP32, common" not in table.note


@pytest.mark.skipif(not available(), reason="altair is not installed")
def test_the_gaps_are_drawn_beside_the_published_bar(kept):
    (one,) = paired_runs.paired(kept(GAPS))
    drawing = loss_chart.gap_chart(one, "", "")
    spec = json.dumps(drawing.spec)
    assert "bf16 against fp32 (floor)" in spec
    assert '"gap": 0.25' in spec
    assert drawing.id == f"fp8-{QUICK}"
    assert f"the first {SHARED} in FP32" in drawing.note


def run(late, first=9.0):
    """Shared steps, whose losses no gap may hold, then windows of which the last lies higher."""
    return [first] * SHARED + [2.0] * (STEPS - WINDOW) + [2.0 * (1 + late)] * WINDOW


RUNS = {
    ("fp32", 0, ""): run(0), ("bf16", 0, ""): run(0), ("fp8", 0, ""): run(0.001),
    ("fp32", 1, ""): run(0, 5.0), ("bf16", 1, ""): run(0.04, 5.0), ("fp8", 1, ""): run(0.04 + 1.04 * 0.003, 5.0),
    ("fp8", 0, "held out, "): [1.0],
}  # fmt: skip


def test_gaps_by_window(kept):
    (one,) = paired_runs.paired(kept({"bf16": (0.0, 0.01), "fp8": (0.0, 0.0)}, runs=RUNS))
    table = paired_runs.window_table(one, "")
    assert [column.label for column in table.columns] == ["Steps", "bf16 against fp32 (floor), %", "fp8, %"]
    assert len(table.cells) == STEPS // WINDOW
    assert table.cells[0] == [f"{SHARED + 1} to {SHARED + WINDOW}", "+0.000", "+0.000"]
    assert table.cells[-1] == [f"{SHARED + STEPS - WINDOW + 1} to {SHARED + STEPS}", "+2.000", "+0.200"]
    (without,) = paired_runs.paired(kept(GAPS))
    assert paired_runs.window_table(without, "").frame.empty


def test_other_seeds_are_context(kept):
    (one,) = paired_runs.paired(kept({"bf16": (-0.001, 0.01), "fp8": (0.0, 0.0)}, runs=RUNS))
    table = paired_runs.context_table(one, "")
    apart = 100 * (1 - 1 / 1.04) / (STEPS // WINDOW // 2)  # in one of the windows of the second half
    assert table.cells == [
        ["bf16 against fp32 (floor)", "2", "0.550", "0.100", "1.000"],
        ["bf16 against bf16 of another seed (context, never the floor)", "1", *[f"{apart:.3f}"] * 3],
    ]
    lonely = {key: losses for key, losses in RUNS.items() if key[1] == 0}
    (one,) = paired_runs.paired(kept({"bf16": (0.0,)}, runs=lonely))
    assert paired_runs.context_table(one, "").frame.empty
    assert "(context" not in str(loss_chart.gap_table(one, "").cells)
