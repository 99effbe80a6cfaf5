"""Evidence rows: picked out of a run, divided, pooled; and numbers that only stand beside."""

from dataclasses import replace

import pytest
from v3bench.suite.ledger import claims, evidence
from v3bench.suite.ledger.claims import Claim, Decides, Evidence, Published, Selector
from v3bench.suite.ledger.sources import Source
from v3bench.suite.ledger.verdict import judge
from v3bench.suite.meter.measurement import Measurement


def claim(value=10, test="equal", picks=()):
    return Claim(
        id="mtp-x",
        area="mtp",
        statement="It is.",
        source=Source(document="isca", place="here"),
        published=Published(value=value, unit="1", printed="x"),
        test=test,
        decides=Decides(basis="measured"),
        needs="a machine",
        evidence=tuple(picks),
    )


def measured(value, scale="full", metric="acceptance_rate", subject="v3", **more):
    fields = {
        "area": "mtp",
        "subject": subject,
        "impl": "torch",
        "case": "c",
        "case_version": 1,
        "metric": metric,
        "basis": "measured",
        "scale": scale,
        "convention": "",
        "device": "cpu",
        "samples": tuple(value) if isinstance(value, list) else (value,),
    }
    return Measurement(**{**fields, **more})


PICK = Selector(metric="acceptance_rate", subject="v3")


def test_a_run_fills_in_what_was_measured():
    of = claim(0.85, "between", picks=[Evidence(pick=PICK)])
    of = replace(of, published=replace(of.published, value=(0.8, 0.9), step=0.001))
    assert judge([of])[0].outcome == "untested"
    found = judge([of], [measured([0.84, 0.85, 0.86])])[0]
    assert (found.outcome, found.verdict) == ("agrees", "reproduced")
    assert found.evidence[0].value == 0.85
    assert found.evidence[0].interval == pytest.approx((0.85 - 0.0248414, 0.85 + 0.0248414))  # t of 2 is 4.3027
    assert judge([of], [measured([0.2, 0.3])])[0].verdict == "deviates"
    assert judge([of], [measured([0.5, 0.85, 0.99])])[0].verdict == "ambiguous"


def test_a_skip_gives_its_reason():
    of = claim(picks=[Evidence(pick=PICK)])
    found = judge([of], [measured([], status="skipped", why="needs a GPU")])[0]
    assert (found.outcome, found.why) == ("untested", "c skipped: needs a GPU")


def test_selectors_select():
    of = claim(10, picks=[Evidence(pick=replace(PICK, convention="a", scale="full", case="c"))])
    good = measured(10, convention="a")
    for other in (
        measured(99, convention="b"),
        measured(99, convention="a", case="d"),
        measured(99, "slice", convention="a"),
        measured(99, convention="a", metric="tokens_per_step"),
        measured(99, convention="a", subject="v2"),
        measured(99, convention="a", basis="counted"),
    ):
        assert judge([of], [good, other])[0].outcome == "agrees"


def test_a_selector_may_name_how_a_convention_begins_and_whose_it_is():
    pick = replace(PICK, begins="teacher-forced; draft 1; temperature 0; all text", impl="module", scale="proxy")
    forced = "teacher-forced; draft 1; temperature 0; all text; 100 steps"
    good = measured(10, "proxy", convention=forced, impl="module")
    others = [
        replace(good, samples=(99,), **change)
        for change in (
            {"impl": "most-frequent"}, {"scale": "full"},
            {"convention": "teacher-forced; draft 2; temperature 0; all text; 100 steps"},
            {"convention": f"in generation; {forced}"},
        )
    ]  # fmt: skip
    found = evidence.rows(claim(), Evidence(pick=pick), evidence.index([good, *others]))
    assert [(row.value, row.scale, row.convention) for row in found] == [(10, "proxy", forced)]


def test_a_ratio_takes_both_sides_from_one_device():
    over = Selector(metric="acceptance_rate", subject="v2")
    of = claim(2, picks=[Evidence(pick=PICK, over=over)])
    both = [measured(10), measured(5, subject="v2")]
    assert judge([of], both)[0].outcome == "agrees"
    assert judge([of], [measured(10), measured(5, subject="v2", device="cuda")])[0].outcome == "untested"


def test_samples_of_several_launches_are_pooled():
    of = claim(10, picks=[Evidence(pick=PICK)])
    found = judge([of], [measured([9.6, 9.8], launch="a"), measured([10.2, 10.4], launch="b")])[0]
    assert len(found.evidence) == 1
    assert found.evidence[0].value == pytest.approx(10)


def test_another_document_s_number_stands_beside_and_never_decides():
    shown = evidence.rows(claims.read("tpot-server"), Evidence(claim="tpot-ktransformers-8-experts"), {})[0]
    assert (shown.basis, shown.interval) == ("published", (12.4, 13.5))
    assert next(one for one in judge() if one.claim.id == "tpot-server").outcome == "untested"
