"""Generation in turns, on a model whose acceptance is known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from v3bench.model_ref.agreement import Difference
from v3bench.model_ref.generate import Generated
from v3bench.suite.mtp import speed

from .small import model_of

PROMPTS = [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_generations_are_taken_in_turns_and_the_first_are_dropped(monkeypatch):
    order = []

    def decoded(model, prompts, new, drafts, device):
        order.append((prompts[0], drafts))
        return float(len(order)), [Generated([len(order)] * new, new - 1, (new - 1,) * drafts, (0,) * drafts)]

    monkeypatch.setattr(speed, "decoded", decoded)
    found = speed.race(None, ["a", "b"], 5, [1, 2], 2, "cpu")
    first = [("a", 0), ("a", 1), ("a", 2)]
    assert order == [
        *first,
        *(("a", D) for D in (0, 1, 2)), *(("b", D) for D in (2, 1, 0)),
        *(("a", D) for D in (2, 1, 0)), *(("b", D) for D in (0, 1, 2)),
    ]  # fmt: skip
    assert found.seconds == {0: [4.0, 9.0, 12.0, 13.0], 1: [5.0, 8.0, 11.0, 14.0], 2: [6.0, 7.0, 10.0, 15.0]}
    assert found.speed_up(1) == (4 / 5, 9 / 8, 12 / 11, 13 / 14)
    assert found.rates(2) == (4 / 6, 4 / 7, 4 / 10, 4 / 15)
    assert [row.tokens[0] for row in found.rows[1]] == [5, 8]  # the first round's, a group after the other


def test_what_was_accepted():
    rows = [Generated(list(range(9)), 4, (4, 4), (3, 1)), Generated(list(range(9)), 6, (6, 6), (2, 0))]
    found = speed.Race(2, 9, rows={2: rows})
    assert found.accepted(2) == [0.5, 0.1]
    assert found.tokens_per_step(2) == 16 / 10


def raced(*texts):
    """Groups of two rows of which the second of the second group parts, where ``texts`` say so."""
    plain = [Generated([n] * 6, 5) for n in range(4)]
    return speed.Race(2, 6, rows={0: plain, 3: [Generated([n] * 6, 3) for n in texts]})


def test_drafts_that_change_a_token_fail(monkeypatch):
    model = model_of(1).float()
    asked = []

    def compared(model, prompts, new, *, drafts):
        asked.append(prompts)
        return SimpleNamespace(differences=found)

    monkeypatch.setattr(speed, "compared", compared)
    assert speed.parted(model, [PROMPTS, PROMPTS[::-1]], raced(0, 1, 2, 3), 3) == []
    assert not asked  # what is equal needs no second look
    tie, wrong = (Difference(1, 3, 5, 6, 0.1, distance, 0.2, 0.25) for distance in (0.1, 0.3))
    found = [tie]
    with pytest.raises(AssertionError, match="3 drafts give other tokens than plain decoding"):
        speed.parted(model, [PROMPTS, PROMPTS[::-1]], raced(0, 1, 2, 9), 3)
    assert asked == [PROMPTS[::-1]]
    (seen,) = speed.parted(model.bfloat16(), [PROMPTS, PROMPTS[::-1]], raced(0, 1, 2, 9), 3)
    told = "row 3 parts from plain decoding at new token 3: 6 in place of 5, whose logits are 0.1 apart, bound 0.2"
    assert seen.told == told
    assert wrong.told.endswith("0.3 apart, bound 0.2, beyond it; the same text read anew moves them 0.25")
    found = [tie, wrong]
    with pytest.raises(AssertionError, match=r"distance=0\.3"):
        speed.parted(model.bfloat16(), [PROMPTS, PROMPTS[::-1]], raced(0, 1, 2, 9), 3)
