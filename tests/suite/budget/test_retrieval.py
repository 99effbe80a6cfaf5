"""The task of retrieval, a model that learns it, and what it answers over caches that keep less."""

from __future__ import annotations

import pytest
import torch
from torch import Generator
from v3bench.model_ref.errors import BadInput
from v3bench.suite.budget import answers
from v3bench.suite.budget.cache import cost, storages, storages_of
from v3bench.suite.budget.retrieval import Task, trained

PRESETS = {"deepseek-v3-tiny": "mla", "llama-tiny": "gqa"}
SMALL = Task(keys=12, values=3)


def test_every_question_has_its_pair_so_many_tokens_back():
    task = Task(keys=9, values=4)
    ids, wanted, distance = task.draw(50, 6, 5, Generator().manual_seed(0))
    assert ids.shape == (50, 11)
    assert int(ids.max()) < task.vocabulary == 9 * 4 + 9
    for row, answer, back in zip(ids.tolist(), wanted.tolist(), distance.tolist(), strict=True):
        assert len({pair // 4 for pair in row[:6]}) == 6  # keys differ
        for question, value, far in zip(row[6:], answer, back, strict=True):
            pair = row[6 - far]  # counted from the first question
            assert (pair // 4, pair % 4) == (question - 36, value)


def test_accuracy_is_of_the_distances_that_are_meant():
    found = answers.Answers(torch.tensor([True, False, True, True]), torch.zeros(4), torch.tensor([1, 5, 5, 9]))
    assert (found.accuracy(), found.accuracy(5), found.accuracy(2, 8), found.accuracy(1, 1)) == (0.75, 2 / 3, 0.5, 1.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_cache_is_read_as_it_was_stored(preset):
    """Untrained: wide integers change almost nothing, and a window of the whole sequence what bfloat16 does."""
    model = trained(preset, SMALL, 2, 64, 1, 1)
    loss = {
        name: answers.asked(model, SMALL, storages_of(model.config, name), 16).loss
        for name in ("bf16", "int8-token", "int2-channel" if PRESETS[preset] == "mla" else "int2-kivi", "window-13")
    }
    bf16, int8, _, window = loss.values()
    assert torch.equal(bf16, window)
    assert torch.allclose(bf16, int8, atol=0.02)
    assert not torch.equal(bf16, int8)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_cached_gives_the_layer_s_own_output(preset):
    model = trained(preset, SMALL, 2, 64, 1, 1)
    ids, _, _ = SMALL.draw(3, 12, 1, Generator().manual_seed(1))
    layers = answers.cached(model, ids)
    assert len(layers) == 2
    inputs = {}
    hooks = [
        layer.attn.register_forward_hook(lambda module, _, out, i=i: inputs.update({i: out}))
        for i, layer in enumerate(model.layers)
    ]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    for i, layer in enumerate(layers):
        _, heads = layer.attend(layer.cached)
        with torch.no_grad():
            out = torch.nn.functional.linear(heads.flatten(1), model.layers[i].attn.w_o)
        assert torch.allclose(out, inputs[i][:, -1], atol=1e-5)
        assert cost(layer, storages(PRESETS[preset], "bf16", 32)).relative < 0.01


def test_training_is_the_same_again_and_has_steps():
    trained.cache_clear()
    first = trained("llama-tiny", SMALL, 1, 64, 2, 1).state_dict()
    trained.cache_clear()
    second = trained("llama-tiny", SMALL, 1, 64, 2, 1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(BadInput, match="0 steps"):
        trained("llama-tiny", SMALL, 1, 64, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_window_forgets_what_lies_beyond_it_and_nothing_else(preset):
    task = Task(keys=32, values=4)
    model = trained(preset, task, 1, 64, 80, 32)
    whole, window = (answers.asked(model, task, storages_of(model.config, name), 512) for name in ("bf16", "window-16"))
    assert whole.accuracy() > 0.9
    assert window.accuracy(1, 15) > 0.8  # the question itself is one of the 16
    assert window.accuracy(16) < 0.4  # chance is a quarter
