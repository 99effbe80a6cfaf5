"""Teacher-forced acceptance: against one prefix at a time, computed from nothing, without a cache."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model
from v3bench.suite.mtp import acceptance
from v3bench.suite.mtp.acceptance import scores

from .small import LENGTH, RAW, ROWS, model_of, windows


def drafted(model: Model, prefix: Tensor, d: int) -> Tensor:
    """Logits (W) of draft d after a prefix (n): one module on its own outputs after the last n - d positions."""
    n = len(prefix)
    h = model.hidden(prefix[None])[:, : n - d]  # true states of positions 0 .. n-1-d
    states = model.run_mtp(1, h, prefix[None, 1 : n - d + 1], None)
    for depth in range(2, d + 1):
        # Entry j of the cache is what the module made of (h_j, t_{j+1}): all of it anew, each from its own input.
        h = torch.cat((h, states[:, -1:]), dim=1)
        states = model.run_mtp(1, h, prefix[None, 1 : n - d + depth], None)
    return model.logits(states[:, -1])[0]


@pytest.mark.parametrize("drafts", [1, 2, 3])
@pytest.mark.parametrize("rows", [2, 128])
def test_one_module_equals_a_fresh_start_at_every_prefix(drafts: int, rows: int) -> None:
    model, ids = model_of(1), windows()
    got = scores(model, ids, drafts, temperatures=(0.7, 1.0), rows=rows)
    assert got.drafts.shape == (ROWS, drafts, LENGTH - drafts)
    for b in range(ROWS):
        for p in range(LENGTH - drafts):
            prefix = ids[b, : drafts + p + 1]
            main = model(prefix[None])[0, -1]
            assert got.said[b, p] == main.argmax()
            assert got.wanted[b, p] == ids[b, len(prefix)]
            assert got.bits[b, p].item() == pytest.approx(
                -main.softmax(-1)[ids[b, len(prefix)]].log2().item(), rel=1e-5
            )
            for d in range(1, drafts + 1):
                logits = drafted(model, prefix, d)
                assert got.drafts[b, d - 1, p] == logits.argmax()
                for t in (0.7, 1.0):
                    overlap = 1 - ((main / t).softmax(-1) - (logits / t).softmax(-1)).abs().sum().item() / 2
                    assert got.expected[t][b, d - 1, p].item() == pytest.approx(overlap, rel=1e-5)
    assert torch.equal(got.accepted, got.drafts == got.said[:, None])
    assert torch.equal(got.accurate, got.drafts == ids[:, None, drafts + 1 :])
    assert len(got.drafts.unique()) > 3  # or every position would prove the same


def test_re_applied_drafts_differ_from_the_first() -> None:
    """A draft that read the main model's newest state would be the first at every depth."""
    drafts = scores(model_of(1), windows(), 3).drafts
    assert not torch.equal(drafts[:, 0], drafts[:, 1])
    assert not torch.equal(drafts[:, 1], drafts[:, 2])


def test_drafts_of_the_same_position_do_not_depend_on_their_number() -> None:
    model, ids = model_of(1), windows()
    one, three = scores(model, ids, 1), scores(model, ids, 3)
    assert torch.equal(one.drafts[:, 0, 2:], three.drafts[:, 0])
    assert torch.equal(one.said[:, 2:], three.said)


@pytest.mark.parametrize("drafts", [2, 3])
def test_each_of_several_modules_drafts_its_own_position(drafts: int) -> None:
    model, ids = model_of(3), windows()
    got = scores(model, ids, drafts)
    for p in range(LENGTH - drafts):
        n = drafts + p + 1
        prefix = ids[:, :n]
        h = model.hidden(prefix)
        assert torch.equal(got.said[:, p], model.logits(h[:, -1]).argmax(-1))
        for d in range(1, drafts + 1):
            h = model.run_mtp(d, h[:, : n - d], prefix[:, d:], None)
            assert torch.equal(got.drafts[:, d - 1, p], model.logits(h[:, -1]).argmax(-1))


def test_logits_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = model_of(1), windows()
    whole = scores(model, ids, 2, (1.0,))
    seen = []
    monkeypatch.setattr(acceptance, "CHUNK", 5 * RAW["vocab_size"])
    head = model.logits
    monkeypatch.setattr(model, "logits", lambda h: seen.append(h.shape[1]) or head(h))
    parts = scores(model, ids, 2, (1.0,))
    assert max(seen) == 5
    assert torch.equal(parts.drafts, whole.drafts)
    torch.testing.assert_close(parts.expected[1.0], whole.expected[1.0])
    torch.testing.assert_close(parts.bits, whole.bits)


def test_a_module_that_says_what_the_main_model_says_is_always_accepted() -> None:
    """Every block adds nothing to the embedding of the newest token: main head and module read the same."""
    model, ids = model_of(1), windows()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("attn.w_o", "w_down")):
                parameter.zero_()
        D = RAW["hidden_size"]
        model.mtp[0].eh_proj.weight.copy_(torch.cat((torch.eye(D), torch.zeros(D, D)), dim=1))
    got = scores(model, ids, 3, (0.5,))
    assert got.accepted.all()
    assert got.expected[0.5].min() > 1 - 1e-5
    assert not got.accurate.all()


def test_drafts_wrong_after_known_tokens_are_rejected_there_and_nowhere_else() -> None:
    """A cycle 0 1 .. 4 that the main head always says; the module is made to say another token after 2 of the 5."""
    W, D = RAW["vocab_size"], RAW["hidden_size"]
    model = model_of(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("attn.w_o", "w_down")):
                parameter.zero_()
        model.embed.weight.zero_()
        model.embed.weight[:, :W] = torch.eye(W)
        model.head.weight.zero_()
        after, wrong = torch.tensor([1, 2, 3, 4, 0]), torch.tensor([1, 7, 3, 8, 0])  # wrong after tokens 1 and 3
        model.head.weight[after, torch.arange(5)] = 1.0
        # The module turns the embeddings of tokens 1 and 3 into those of tokens 9 and 10, which nothing else uses.
        turn = torch.eye(D)
        turn[1, 1] = turn[3, 3] = 0.0
        turn[9, 1] = turn[10, 3] = 1.0
        model.head.weight[7, 9] = model.head.weight[8, 10] = 1.0
        model.mtp[0].eh_proj.weight.copy_(torch.cat((turn, torch.zeros(D, D)), dim=1))
    ids = (torch.arange(5)[:, None] + torch.arange(12)) % 5  # one row from each token
    got = scores(model, ids, 1)
    newest = ids[:, 1:-1]  # of each prefix
    assert torch.equal(got.said, after[newest])
    assert torch.equal(got.drafts[:, 0], wrong[newest])
    assert got.accepted.double().mean().item() == 3 / 5
    assert got.accurate.double().mean().item() == 3 / 5


@pytest.mark.parametrize("modules", [0, 1])
def test_without_drafts_the_main_head_speaks_alone(modules: int) -> None:
    model, ids = model_of(modules), windows()
    got = scores(model, ids, 0, temperatures=(0.7,), rows=2)
    with torch.no_grad():
        logits = model(ids[:, :-1])
    assert torch.equal(got.said, logits.argmax(-1))
    assert torch.equal(got.wanted, ids[:, 1:])
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(got.bits.flatten(), nats.float() / math.log(2))
    assert got.drafts.shape == got.expected[0.7].shape == (len(ids), 0, ids.shape[1] - 1)


def test_bad_input() -> None:
    ids = windows()
    with pytest.raises(BadInput, match="no MTP modules"):
        scores(model_of(0), ids, 1)
    with pytest.raises(BadInput, match="3 drafts of 2 modules; expected at most 2"):
        scores(model_of(2), ids, 3)
    with pytest.raises(BadInput, match="-1 drafts of 1 modules; expected at least 0"):
        scores(model_of(1), ids, -1)
    with pytest.raises(BadInput, match=r"windows of shape \(3, 4\); expected \(N, at least 5\) for 3 drafts"):
        scores(model_of(1), ids[:, :4], 3)
    with pytest.raises(BadInput, match="temperature 0; expected above 0"):
        scores(model_of(1), ids, 1, (0,))
