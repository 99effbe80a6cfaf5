"""What is timed side by side: the same weights, the same results, a cache that is as before."""

from __future__ import annotations

import sys

import pytest
import torch
from v3bench.suite.bench import bench_tpot
from v3bench.suite.bench.contestants import enter
from v3bench.suite.ledger import cases
from v3bench.suite.meter.closeness import scale_error

TINY = "deepseek-v3-tiny"
BOTH = (f"{TINY}/torch", f"{TINY}/transformers")


@pytest.fixture(scope="module")
def pair():
    pytest.importorskip("transformers")
    return enter(BOTH, "cpu")


@pytest.fixture
def ids():
    return torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(3))


def test_both_implementations_have_the_same_weights(pair, ids):
    ours, theirs = pair.values()
    with torch.inference_mode():
        assert scale_error(theirs.logits(ids), ours.logits(ids)) < 1e-5
    assert sum(p.numel() for p in ours.model.parameters()) == sum(p.numel() for p in theirs.model.parameters())


def test_the_selection_bias_is_in_use(pair):
    gates = [module for module in pair[BOTH[0]].model.modules() if hasattr(module, "e_score_correction_bias")]
    assert gates
    assert all(gate.e_score_correction_bias.abs().max() > 0.01 for gate in gates)


def test_training_gives_the_same_loss_gradients(pair, ids):
    ours, theirs = pair.values()
    for player in (ours, theirs):
        player.train_step(ids)
    got, want = ours.model.embed.weight.grad, theirs.model.get_input_embeddings().weight.grad
    assert scale_error(got, want) < 1e-4
    ours.train_step(ids)
    assert torch.allclose(ours.model.embed.weight.grad, got)  # gradients are cleared, not added up


@pytest.mark.parametrize("name", BOTH)
def test_a_continuation_leaves_the_cache_as_it_was(pair, ids, name):
    player = pair[name]
    with torch.inference_mode():
        _, cache = player.prefill(ids[:, :8])
        first = player.continuation(ids[:, 8:], cache)
        again = player.continuation(ids[:, 8:], cache)
        assert torch.equal(first, again)
        assert scale_error(first, player.logits(ids)[:, 8:]) < 1e-5


def test_the_check_finds_wrong_weights_and_a_wrong_cache(pair, ids):
    bench_tpot.agree(pair, ids, 8)
    theirs = pair[BOTH[1]]
    with torch.no_grad():
        weight = theirs.model.get_input_embeddings().weight
        weight[ids[0, 0]] *= 1.01
        with pytest.raises(AssertionError, match=r"transformers are off by .* of their scale"):
            bench_tpot.agree(pair, ids, 8)
        weight[ids[0, 0]] /= 1.01

    class Forgetful(type(theirs)):
        def decode(self, new, cache):
            self.rewind(cache, 1)
            return super().decode(new, cache)

    with pytest.raises(AssertionError, match="are off by"):
        bench_tpot.agree({BOTH[0]: pair[BOTH[0]], BOTH[1]: Forgetful(theirs.model)}, ids, 8)


def test_the_comparison_is_skipped_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(pytest.skip.Exception, match="the transformers package is not installed"):
        enter(BOTH, "cpu")


def test_partners_are_our_own_models_without_mtp(ids):
    players = enter((f"{TINY}/torch", "llama-tiny/torch"), "cpu")
    assert list(players) == [f"{TINY}/torch", "llama-tiny/torch"]
    assert not any("mtp" in name for name, _ in players[f"{TINY}/torch"].model.named_parameters())
    bench_tpot.agree(players, ids, 8)


def test_prompts_are_the_same_each_time_and_fit_every_vocabulary():
    case = cases.load()["decode-partners"]
    first, again = (bench_tpot.tokens(case, "cpu", extra=3) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (case.shape["batch"], case.shape["tokens"] + 3)
    assert first.max() < 256
