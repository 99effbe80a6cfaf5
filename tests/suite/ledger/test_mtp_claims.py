"""MTP's claims: proxies and slices stand beside them and never decide; the released weights alone would."""

import pytest
from v3bench.suite.ledger import cases, claims
from v3bench.suite.ledger.evidence import index
from v3bench.suite.ledger.verdict import judge_one
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.mtp import conventions as said
from v3bench.suite.report.ledger_rows import commands, row_view

ABOUT = "1200 steps; corpus abc"
ACCEPTANCE = ("mtp-acceptance-isca", "mtp-acceptance-report")
SPEED = ("mtp-speed-up", "mtp-speed-up-report")


def found(metric, convention, *samples, subject=said.SUBJECTS[0], scale="proxy", impl=said.MODEL):
    return Measurement(
        area="mtp", subject=subject, impl=impl, case="c", case_version=1, metric=metric, basis="measured", scale=scale,
        convention=convention, device="cpu", samples=samples,
    )  # fmt: skip


def judged(name, *records):
    return judge_one(claims.read(name), index(records))


FORCED = said.teacher_forced(1, ABOUT)
FASTER = said.batched(said.MEASURED, 1)


@pytest.mark.parametrize("scale, subject", [("proxy", one) for one in said.SUBJECTS] + [("slice", "deepseek-v3")])
def test_what_is_not_the_whole_model_is_shown_and_decides_nothing(scale, subject):
    for name in ACCEPTANCE:
        one = judged(name, found("acceptance_rate", FORCED, 0.86, 0.87, subject=subject, scale=scale))
        assert one.verdict == "not tested (needs the released 671B weights)"
        assert [row.scale for row in one.evidence if row.basis == "measured"] == [scale]
    for name in SPEED:
        one = judged(name, found("speed_up", FASTER, 1.8, subject=subject, scale=scale))
        assert one.outcome == "untested"
        assert [(row.scale, row.value) for row in one.evidence if row.basis == "measured"] == [(scale, 1.8)]


def test_the_released_weights_decide():
    record = found("acceptance_rate", FORCED, 0.86, 0.87, subject="deepseek-v3", scale="full")
    assert judged("mtp-acceptance-report", record).verdict == "reproduced"
    assert (
        judged("mtp-speed-up", found("speed_up", FASTER, 1.2, subject="deepseek-v3", scale="full")).verdict
        == "deviates"
    )


def test_a_proxy_called_full_is_not_picked():
    record = found("acceptance_rate", FORCED, 0.86, scale="full")
    assert judged("mtp-acceptance-report", record).outcome == "untested"


def test_only_the_first_draft_of_the_module_on_all_text_stands_beside():
    others = [
        found("acceptance_rate", said.teacher_forced(2, ABOUT), 0.6),
        found("acceptance_rate", said.teacher_forced(1, ABOUT, temperature=1.0), 0.6),
        found("acceptance_rate", said.teacher_forced(1, ABOUT, text="code"), 0.6),
        found("acceptance_rate", said.after(50, ABOUT), 0.6),
        found("acceptance_rate", said.in_generation(1, 1), 0.6),
        found("acceptance_rate", FORCED, 0.1, impl=said.MOST_FREQUENT),
        found("speed_up", said.batched(said.BOUND, 1), 1.9),
        found("speed_up", said.batched(said.FROM_PARTS, 1), 1.9),
        # A step's cost is no speed-up: beside 1.8 it would be read as one.
        found("step_cost", said.two_over_one(1, 4096), 1.8, subject="deepseek-v3", scale="slice", impl=said.MLA),
    ]
    for name in (*ACCEPTANCE, *SPEED):
        assert not [row for row in judged(name, *others).evidence if row.basis == "measured"]


def test_the_row_says_what_would_test_it():
    one = judged(ACCEPTANCE[0])
    assert commands(one)[-2:] == ["v3bench run --only mtp --checkpoint DIR --out RUN", "v3bench claims RUN --json"]
    assert row_view(one)["needs"] == "the released 671B weights"


def test_speed_ups_by_bytes_stand_with_their_deployment():
    rows = {row.convention: row for row in judged(SPEED[1]).evidence}
    one_gpu, shared = (rows[f"{where}, bytes"] for where in ("EP8, batch 8 a GPU", "EP144, batch 32 a GPU"))
    assert one_gpu.value < shared.value < 1.85
    assert all(row.basis in ("modelled", "published") for row in rows.values())
    assert rows["step bound by communication"].value < 1


def test_the_subjects_are_those_of_the_cases():
    assert {one for case in cases.load().values() if case.area == "mtp" for one in case.subjects} >= set(said.SUBJECTS)
