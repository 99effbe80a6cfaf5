"""Every claim has its row; every verdict its word, and the words never say more than the evidence."""

from dataclasses import replace

import pytest
from v3bench.suite.ledger import verdict
from v3bench.suite.report.ledger_rows import (
    WORDS,
    found_text,
    ledger_frame,
    row_view,
    seen,
    tally,
    tally_table,
    word_of,
)


def test_every_verdict_that_can_be_given_has_its_word():
    given = {"deviates": "deviates", "ambiguous": "ambiguous"}
    for basis in ("formula", "counted", "modelled", "measured"):
        for scale in ("full", "slice", "proxy"):
            given[verdict.verdict("agrees", basis, scale)] = ""
    assert set(given) == {word.word for word in WORDS} - {"not tested"}


def test_untested_says_what_it_needs(judged):
    rows = [row_view(one) for one in judged if one.outcome == "untested"]
    assert rows
    for row in rows:
        assert row["word"].word == "not tested"
        assert row["needs"]
        assert not row["needs"].startswith(("needs", "not tested"))
        assert row["devices"] == []
        assert row["found"] == ""


def test_no_claim_is_left_out(judged):
    frame = ledger_frame(judged)
    assert frame["id"].tolist() == [one.claim.id for one in judged]
    assert sum(count for _, count in tally(judged)) == len(judged)
    assert sum(int(row[-1]) for row in tally_table(judged).cells) == len(judged)


def test_decided_rows_show_what_decided(judged):
    rows = {one.claim.id: row_view(one) for one in judged}
    row = rows["kv-cache-multiple-llama-3-1-405b"]
    assert (row["word"].word, row["printed"], row["found"]) == ("deviates", "7.28x", "7.34426\u00a0\u00d7")
    assert next(piece["decides"] for piece in row["evidence"])
    assert row["commands"]


def test_a_proxy_is_shown_as_a_proxy(judged):
    one = next(one for one in judged if one.deciding)
    proxied = replace(one.deciding[0], scale="proxy", basis="measured")
    claim = replace(one.claim, decides=replace(one.claim.decides, basis="measured", scale="proxy"))
    small = replace(
        one, claim=claim, evidence=(proxied,), deciding=(proxied,), outcome="agrees", verdict="proxy agrees"
    )
    assert word_of(small).word == "proxy agrees"
    assert row_view(small)["scale"] == "proxy"
    assert seen(small, "measured").endswith(" (proxy)")
    assert not seen(one, one.claim.decides.basis).endswith(" (proxy)")
    assert row_view(small)["devices"] == [proxied.device][: bool(proxied.device)]


def test_two_scales_are_never_one_range(judged):
    one = next(one for one in judged if one.deciding)
    full, sliced, small = (
        replace(one.deciding[0], scale=scale, basis="measured", value=value, device="cpu")
        for scale, value in (("full", 3.0), ("slice", 2.0), ("proxy", 1.0))
    )
    said = [seen(replace(one, evidence=rows), "measured") for rows in ((small, sliced, full), (small, sliced), ())]
    assert said == [found_text([full]), f"{found_text([sliced])} (slice)", ""]
    assert row_view(replace(one, deciding=(full, full)))["devices"] == ["cpu"]


def test_a_range_keeps_its_ends_apart(judged):
    row = next(one for one in judged if one.deciding).deciding[0]
    apart = [replace(row, value=value, unit="kB") for value in (684.494, 684.536, 684.5)]
    assert found_text(apart) == "684.49 to 684.54\u00a0kB"
    assert found_text(()) == ""


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.key)
def test_every_word_is_explained(word):
    assert word.meaning
    assert word.tone in {"agree", "deviate", "doubt", "none"}
