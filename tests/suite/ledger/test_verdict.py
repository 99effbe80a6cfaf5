"""The one rule from evidence to verdict: every outcome, basis and scale, and no number of its own."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import verdict
from v3bench.suite.ledger.claims import Claim, Decides, Evidence, Published
from v3bench.suite.ledger.evidence import Row
from v3bench.suite.ledger.sources import Source
from v3bench.suite.ledger.verdict import accepts, compare, judge, judge_one

LEDGER = {one.claim.id: one for one in judge()}


def claim(
    value=10,
    test="equal",
    basis="measured",
    scale="full",
    convention="",
    tolerance=None,
    step=None,
    status="confirmed",
    picks=(),
):
    return Claim(
        id="mtp-x",
        area="mtp",
        statement="It is.",
        source=Source(document="isca", place="here", status=status),
        published=Published(value=value, unit="1", printed="x", step=step),
        test=test,
        tolerance=tolerance,
        tolerance_why="because",
        decides=Decides(basis=basis, scale=scale, convention=convention),
        needs="a machine",
        evidence=tuple(picks),
    )


def row(value=10.0, basis="measured", scale="full", **more):
    return Row(basis=basis, scale=scale, convention=more.pop("convention", ""), value=value, unit="1", **more)


def weighed(of, *rows):
    return verdict.weigh(of, rows, {})


WORDS = {"formula": "recomputed", "counted": "counted", "modelled": "consistent with the model"}


@pytest.mark.parametrize(
    "outcome, basis, scale",
    list(itertools.product(get_args(verdict.Outcome), ("formula", "counted", "measured", "modelled"), verdict.SCALES)),
)
def test_the_words_of_every_outcome_basis_and_scale(outcome, basis, scale):
    if outcome == "untested":
        expected = "not tested (needs a machine)"
    elif outcome != "agrees":
        expected = outcome
    elif basis == "measured":
        expected = "proxy agrees" if scale == "proxy" else "reproduced"
    else:
        expected = WORDS[basis]
    assert verdict.verdict(outcome, basis, scale, "a machine") == expected


def test_a_published_number_decides_nothing():
    with pytest.raises(BadInput, match="decides nothing"):
        verdict.verdict("agrees", "published", "full")


@pytest.mark.parametrize(
    "test, value, tolerance, inside, outside",
    [
        ("equal", 67, None, (66.5, 67, 67.76), (66.4, 68.1)),  # 67.76 cut off, 66.5 rounded
        ("equal", 14.76, None, (14.755, 14.769), (14.75, 14.771)),
        ("equal", -3, None, (-3.9, -3, -2.5), (-4.1, -4, -2.4)),
        ("equal", 384_272, None, (384_272,), (384_271, 384_273)),  # a count is met or missed
        ("within", 100, 0.05, (95, 105), (94.9, 105.1)),
        ("about", 100, 0.05, (95, 105), (94.9, 105.1)),
        ("between", (80, 90), None, (79.5, 85, 90.5), (79.4, 90.6)),
        ("below", 50, None, (-1000, 50), (50.001,)),
        ("above", 50, None, (50, 1e9), (49.999,)),
        ("order", 10, None, (3.2, 10, 31), (3.1, 32)),
    ],
)
def test_what_each_test_accepts(test, value, tolerance, inside, outside):
    of = claim(value, test, tolerance=tolerance, step=0.01 if value == 14.76 else None)
    assert all(compare(row(x), accepts(of)) == "agrees" for x in inside)
    assert all(compare(row(x), accepts(of)) == "deviates" for x in outside)


@pytest.mark.parametrize(
    "interval, outcome",
    [
        ((9.6, 10.4), "agrees"),
        ((8.0, 9.0), "deviates"),
        ((9.0, 10.2), "ambiguous"),
        ((5.0, 20.0), "ambiguous"),
        ((11.5, 12), "deviates"),
    ],
)
def test_the_evidence_s_own_interval(interval, outcome):
    assert compare(row(sum(interval) / 2, interval=interval), accepts(claim(10))) == outcome


def test_a_number_cut_off_is_said_so():
    assert "cut off, not rounded" in weighed(claim(67), row(67.76)).why
    assert "cut off" not in weighed(claim(67), row(67.2)).why


def test_only_the_deciding_basis_decides():
    found = weighed(claim(basis="formula"), row(10, "formula"), row(99, "measured"))
    assert found.outcome == "agrees"
    assert "measured: 99 deviates" in found.why


def test_a_stronger_basis_decides_where_a_run_has_it():
    of = replace(claim(basis="formula"), decides=Decides(basis="formula", stronger=("measured", "counted")))
    formula, counted, measured = row(10, "formula"), row(10, "counted"), row(99, "measured")
    assert (weighed(of, formula).basis, weighed(of, formula).outcome) == ("formula", "agrees")
    assert (weighed(of, formula, counted).basis, weighed(of, formula, counted).outcome) == ("counted", "agrees")
    assert (weighed(of, formula, counted, measured).basis, weighed(of, formula, measured).outcome) == (
        "measured",
        "deviates",
    )
    proxy = row(99, "measured", scale="proxy")
    assert weighed(of, formula, proxy).basis == "formula", "a proxy does not decide what is meant in full"


def test_only_the_convention_meant_decides():
    rows = (row(10, "formula", convention="a"), row(99, "formula", convention="b"))
    assert weighed(claim(basis="formula", convention="a"), *rows).outcome == "agrees"
    assert weighed(claim(basis="formula", convention="b"), *rows).outcome == "deviates"


def test_conventions_that_disagree_are_ambiguous_and_named():
    found = weighed(
        claim(basis="formula"), row(10, "formula", convention="causal"), row(99, "formula", convention="full")
    )
    assert found.outcome == "ambiguous"
    assert "causal" in found.why
    assert "full" in found.why


def test_conventions_on_both_sides_are_ambiguous():
    assert (
        weighed(claim(basis="formula"), row(5, "formula", convention="a"), row(99, "formula", convention="b")).outcome
        == "ambiguous"
    )
    assert (
        weighed(claim(basis="formula"), row(50, "formula", convention="a"), row(99, "formula", convention="b")).outcome
        == "deviates"
    )


@pytest.mark.parametrize(
    "least, scale, outcome",
    [
        ("full", "full", "agrees"),
        ("full", "slice", "agrees"),
        ("full", "proxy", "untested"),
        ("slice", "proxy", "untested"),
        ("slice", "slice", "agrees"),
        ("proxy", "proxy", "agrees"),
        ("proxy", "full", "agrees"),
    ],
)
def test_the_least_scale_that_counts(least, scale, outcome):
    assert weighed(claim(scale=least), row(10, scale=scale)).outcome == outcome


def test_counting_a_slice_does_not_count_the_full_model():
    assert weighed(claim(basis="counted"), row(10, "counted", "slice")).outcome == "untested"


def test_a_slice_decides_no_claim_of_the_whole_model():
    of = claim()
    of = replace(of, decides=replace(of.decides, whole=True))
    assert weighed(of, row(10, scale="slice")).outcome == "untested"
    assert weighed(of, row(99, scale="slice"), row(10)).outcome == "agrees"


def test_the_best_scale_decides_alone():
    found = weighed(claim(scale="proxy"), row(99, scale="proxy"), row(10, scale="slice"))
    assert (found.outcome, found.scale) == ("agrees", "slice")


def test_what_is_only_remembered_decides_nothing():
    assert weighed(claim(status="memory"), row(10)).outcome == "untested"
    remembered = weighed(claim(basis="modelled"), row(10, "modelled", remembered=True))
    assert (remembered.outcome, "only remembered" in remembered.why) == ("untested", True)
    assert (
        weighed(claim(basis="modelled"), row(10, "modelled", remembered=True), row(99, "modelled")).outcome
        == "deviates"
    )


def test_a_claim_is_no_evidence_for_itself():
    with pytest.raises(BadInput, match="own published value"):
        weighed(claim(basis="formula"), row(10, "formula", leans_on=frozenset({"mtp-x"})))


def test_broken_evidence_is_seen_and_decides_nothing(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(verdict, "rows", broken)
    found = judge_one(claim(picks=[Evidence(derivation="kv-mla", step="per_token")]), {})
    assert found.errored
    assert found.outcome == "untested"
    assert "ZeroDivisionError: by zero" in found.why
    assert found.verdict == "not tested (needs its check to be repaired)"


def test_the_row_for_json():
    got = LEDGER["kv-cache-deepseek-v3"].as_json()
    assert list(got) == [
        "id",
        "statement",
        "source",
        "published",
        "convention",
        "evidence",
        "outcome",
        "verdict",
        "why",
    ]
    assert list(got["published"]) == ["value", "unit", "test"]
    assert list(got["evidence"][0]) == ["basis", "scale", "convention", "value", "unit", "device", "interval"]
    assert got["published"] == {"value": 70.272, "unit": "kB", "test": "equal"}
    assert got["evidence"][0]["value"] == 70.272


SPOT = [
    ("kv-cache-deepseek-v3", "recomputed"),
    ("kv-cache-multiple-llama-3-1-405b", "deviates"),
    ("kv-cache-multiple-qwen2-5-72b", "recomputed"),
    ("flops-deepseek-v3", "recomputed"),
    ("flops-deepseek-v2", "recomputed"),
    ("flops-qwen-72b", "deviates"),
    ("flops-llama-3-1-405b", "deviates"),
    ("flops-order-llama-405b", "recomputed"),
    ("flops-order-qwen-72b", "deviates"),
    ("tpot-ib", "consistent with the model"),
    ("tpot-ib-rate", "consistent with the model"),
    ("tpot-layers", "deviates"),
    ("tpot-ai-pc", "not tested"),
    ("fabric-slim-fly-router-price", "not tested"),
    ("mtp-speed-up", "not tested"),
    ("fabric-df-links", "recomputed"),
    ("fabric-df-cost", "not tested"),
    ("deployment-mfu-causal-mpft", "recomputed"),
    ("deployment-overview-cost", "recomputed"),
    ("expert-parallel-free-cost", "recomputed"),
    ("fp8-accumulation-error", "ambiguous"),
    ("model-readme-activated", "deviates"),
    ("kv-variants-article-before-mla", "deviates"),
    ("fp8-loss-gap-16b", "not tested"),
]


@pytest.mark.parametrize("name, word", SPOT)
def test_spot_checks(name, word):
    assert LEDGER[name].verdict.split(" (")[0] == word


def test_nothing_is_broken_and_nothing_measured_is_claimed_without_a_run():
    assert [one.claim.id for one in LEDGER.values() if one.errored] == []
    for one in LEDGER.values():
        if one.claim.decides.basis in ("measured", "counted"):
            assert one.outcome == "untested", one.claim.id
        assert one.why or one.outcome == "untested"
        assert set(one.deciding) <= set(one.evidence)
        assert bool(one.deciding) == (one.outcome != "untested")


def test_a_mixed_accounting_shows_on_its_own():
    """The dense rows of Table 2 agree with 72 L h^2 + 6 V h only, the DeepSeek rows with everything but that."""
    for name, dense in (
        ("flops-qwen-72b", True),
        ("flops-llama-3-1-405b", True),
        ("flops-deepseek-v3", False),
        ("flops-deepseek-v2", False),
    ):
        by = {r.convention: compare(r, accepts(LEDGER[name].claim)) for r in LEDGER[name].evidence}
        megatron = by["72 L h^2 + 6 V h, no attention"]
        assert (megatron, by["train_causal"]) == (("agrees", "deviates") if dense else ("deviates", "agrees"))
    megatron = next(r for r in LEDGER["flops-qwen-72b"].evidence if r.convention.startswith("72"))
    assert megatron.inferred
