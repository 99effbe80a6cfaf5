"""Speculative decoding says what plain decoding says, whatever the drafts are, and counts them right."""

from __future__ import annotations

import pytest
import torch
from v3bench.model_ref import generate as plain_module
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.generate import generate
from v3bench.model_ref.model import Model
from v3bench.model_ref.sampling import GREEDY
from v3bench.model_ref.speculate import Drafter, speculate

from .drafting import cycle, leaning, model_of
from .tiny import config

RAGGED = [[5], [3, 1, 4, 1, 5, 9, 2, 6], [7, 8]]


@pytest.mark.parametrize("drafts", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("part", [0.02, 1.0], ids=["some accepted", "few accepted"])
def test_tokens_are_the_plain_ones(depth: int, drafts: int, part: float) -> None:
    """Float32; prompts shorter than the modules' reach among them, so that a module begins later."""
    model = leaning(depth, part)
    plain = generate(model, RAGGED, 24)
    fast = speculate(model, RAGGED, 24, drafts=drafts)
    assert [row.tokens for row in fast] == [row.tokens for row in plain]
    assert all(row.proposed == (row.steps,) * drafts for row in fast)
    assert [speculate(model, [prompt], 24, drafts=drafts)[0] for prompt in RAGGED] == fast
    assert len({token for row in plain for token in row.tokens}) > 20
    if part < 1:
        accepted = [sum(row.accepted[d] for row in fast) for d in range(drafts)]
        assert all(0 < count < sum(row.steps for row in fast) for count in accepted)
        assert len({row.accepted for row in fast}) > 1


@pytest.mark.parametrize("drafts", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 3])
def test_agreeing_drafts_are_all_accepted(depth: int, drafts: int) -> None:
    model = leaning(depth, 0.0)
    (fast,) = speculate(model, [[7, 8]], 1 + 4 * (drafts + 1), drafts=drafts)
    assert fast.accepted == fast.proposed == (4,) * drafts
    assert (fast.steps, fast.acceptance_rate, fast.tokens_per_step) == (4, 1.0, drafts + 1)
    assert fast.tokens == generate(model, [[7, 8]], 1 + 4 * (drafts + 1))[0].tokens


@pytest.mark.parametrize("drafts", [1, 2, 3])
@pytest.mark.parametrize("wrong", [[{2, 3, 7}], [{2, 3, 7}, {5}], [{11}, {4}, {1, 2}]], ids=["one", "two", "three"])
def test_acceptance_is_that_of_the_cycle(drafts: int, wrong: list[set[int]]) -> None:
    """Thirteen tokens in a circle; draft d is good if no module up to it has read a token it gets wrong."""
    model, length, start, count = cycle(13, wrong), 13, [0, 3, 8], 100
    used = [wrong[min(d, len(wrong) - 1)] for d in range(drafts)]
    rows = speculate(model, [[0], [1, 2, 3], [4, 5, 6, 7, 8]], count, drafts=drafts)
    for at, row in zip(start, rows, strict=True):
        assert row.tokens == [(at + 1 + i) % length for i in range(count)]
        pending, accepted = (at + 1) % length, [0] * drafts
        for _ in range(row.steps):
            good = next((d for d in range(drafts) if (pending + d) % length in used[d]), drafts)
            for d in range(good):
                accepted[d] += 1
            pending = (pending + good + 1) % length
        assert row.accepted == tuple(accepted)
        assert row.proposed == (row.steps,) * drafts
        assert 0 < accepted[-1] < row.steps


@pytest.mark.parametrize("triples, pairs", [(0, 6), (1, 5), (2, 3), (3, 2), (4, 0)])
def test_k_wrong_tokens_of_a_cycle_give_a_share_known_beforehand(triples: int, pairs: int) -> None:
    """A cycle of triples whose last token is wrong, then of pairs without a wrong one.

    A triple takes two steps: its first token's draft is accepted, the last one's refused. A pair takes one, accepted.
    """
    model = cycle(3 * triples + 2 * pairs, [{3 * i + 2 for i in range(triples)}])
    rounds = 8
    (row,) = speculate(model, [[3 * triples + 2 * pairs - 1]], 1 + rounds * (3 * triples + 2 * pairs))
    assert row.proposed == (rounds * (2 * triples + pairs),)
    assert row.accepted == (rounds * (triples + pairs),)


@torch.inference_mode()
@pytest.mark.parametrize("drafts", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_drafts_after_any_number_of_acceptances_are_those_of_whole_sequences(depth: int, drafts: int) -> None:
    """Rows accept different numbers of drafts; the oracle runs each row's modules anew, without a cache."""
    model = model_of(depth, dtype=torch.float64)
    random = torch.Generator().manual_seed(1)
    rows = [[1], [1, 2, 3, 4], [9, 8, 7], [5, 5]]
    drafter = Drafter(model, len(rows), 4, drafts, GREEDY, random)
    texts = [[*row, 6] for row in rows]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    fresh = torch.tensor([text + [0] * (width + 1 - len(text)) for text in texts])
    drafter.read(model.hidden(ids), fresh, torch.tensor([len(row) for row in rows]))
    for accepted in ((0, 2, 1, 0), (3, 0, 0, 1), (0, 0, 4, 2), (1, 1, 1, 1), (0, 0, 0, 0), (4, 4, 4, 4)):
        got, _ = drafter.drafts([len(text) for text in texts])
        want = [drafts_of(model, text, drafts) for text in texts]
        assert got.tolist() == want
        # The next step: the pending token and its drafts are read, some are good, then another token follows.
        good = [min(count, drafts) for count in accepted]
        new = [
            [*want[b][:n], int(torch.randint(0, 61, (1,), generator=random))] + [0] * (drafts - n)
            for b, n in enumerate(good)
        ]
        h = torch.stack(
            [model.hidden(torch.tensor([[*t, *d]]))[0, -1 - drafts :] for t, d in zip(texts, want, strict=True)]
        )
        drafter.read(h, torch.tensor(new), torch.tensor(good))
        texts = [text + more[: n + 1] for text, more, n in zip(texts, new, good, strict=True)]


def drafts_of(model: Model, text: list[int], count: int) -> list[int]:
    """Drafts after ``text``, whose last token the main model has not read: every state computed anew."""
    known, tokens = len(text), list(text)
    h = below = model.hidden(torch.tensor([text[:-1]]))
    for d in range(1, count + 1):
        k = min(d, len(model.mtp))
        if d > k:  # the module's own last state goes on, behind the states that it read before
            h = torch.cat((below, h[:, -1:]), dim=1)
        below = h
        h = model.run_mtp(k, h, torch.tensor([tokens[k : k + h.shape[1]]]), None)
        tokens.append(int(model.logits(h[:, -1:]).argmax()))
    return tokens[known:]


def test_a_row_ends_after_its_stop_token() -> None:
    model = leaning(1, 0.02)
    free = generate(model, RAGGED, 30)
    stop = {free[1].tokens[3], free[2].tokens[6]}
    plain = generate(model, RAGGED, 30, stop=stop)
    shown: list[list[int]] = [[] for _ in RAGGED]
    fast = speculate(model, RAGGED, 30, drafts=3, stop=stop, on_tokens=lambda row, tokens: shown[row].extend(tokens))
    assert [row.tokens for row in fast] == [row.tokens for row in plain] == shown
    assert len({len(row.tokens) for row in fast}) > 2


def test_caches_grow_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model = leaning(2, 0.02)
    want = speculate(model, RAGGED, 30, drafts=3)
    monkeypatch.setattr(plain_module, "FIRST_ROOM", 2)
    assert speculate(model, RAGGED, 30, drafts=3) == want


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(BadInput, match="no MTP modules"):
        speculate(Model(config(num_nextn_predict_layers=1), mtp=False), [[1]], 4)
    with pytest.raises(BadInput, match="drafts is 0; expected 1 or more"):
        speculate(model_of(1), [[1]], 4, drafts=0)
    with pytest.raises(BadInput, match="at least one token"):
        speculate(model_of(1), [[]], 4)
