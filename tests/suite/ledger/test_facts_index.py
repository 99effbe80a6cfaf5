"""The index of facts: each row leads to claims or says why not, and each claim is led to."""

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import claims, facts_index
from v3bench.suite.ledger.workings import work_out


def test_the_index_is_walked_without_error():
    rows = facts_index.load()
    assert len(rows) > 150
    assert {row.section for row in rows} >= {
        "1",
        "2.1",
        "2.2",
        "2.3",
        "2.4",
        "2.5",
        "2.6",
        "2.7",
        "2.8",
        "3",
        "4.1",
        "4.2",
        "4.3",
    }


def test_every_row_has_claims_or_a_reason_and_every_claim_a_row():
    named = set()
    for row in facts_index.load():
        assert row.claims or row.reason, row.row
        named |= set(row.claims)
    assert named == {claim.id for claim in claims.load()}


def test_no_row_stands_twice():
    keys = [(row.section, row.row) for row in facts_index.load()]
    assert len(set(keys)) == len(keys)


def test_our_own_numbers_can_be_worked_out():
    for row in facts_index.load():
        for derivation, variant, step in row.parts():
            assert work_out(derivation, variant).steps[step].text


ROW = '[[row]]\nsection = "1"\nrow = "r"\n'


@pytest.mark.parametrize(
    "text, what",
    [
        (ROW, "has neither claims nor a reason"),
        (ROW + 'claims = ["tpot-x"]\n', "claim 'tpot-x'"),
        (ROW + 'reason = "r"\n', "is in no row"),
        (ROW + 'reason = "r"\nsteps = ["kv-mla.x"]\n', "step 'x'"),
        (ROW + 'reasons = "r"\n', "key 'reasons' is unknown; expected one of reason"),
        ("[rows]\n", "key 'rows' is unknown"),
    ],
)
def test_a_row_that_leads_nowhere(tmp_path, text, what):
    path = tmp_path / "index.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        facts_index.load(path)
    assert "index.toml" in str(caught.value)
    assert what in str(caught.value)
