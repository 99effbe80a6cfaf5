"""Sampled tokens have the model's distribution, speculative ones too, and a wrong rule of acceptance shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from v3bench.model_ref import sampling as module
from v3bench.model_ref.generate import generate
from v3bench.model_ref.model import Model
from v3bench.model_ref.sampling import Sampling, accepts, draw, judged
from v3bench.model_ref.speculate import speculate

from .drafting import leaning

WORDS, LENGTH, TEXTS = 4, 4, 6000
PROMPT = [1, 3, 2]
FAR = 4.0  # standard deviations: by chance once in 30,000


def distance(counts: dict[tuple[int, ...], int], law: dict[tuple[int, ...], float]) -> float:
    """How far counts are from a law, in standard deviations: chi-square, made normal by Wilson and Hilferty.

    Outcomes expected fewer than five times count as one.
    """
    total = sum(counts.values())
    rare = [x for x, p in law.items() if p * total < 5]
    cells = [(counts.get(x, 0), p * total) for x, p in law.items() if p * total >= 5]
    cells.append((sum(counts.get(x, 0) for x in rare), sum(law[x] for x in rare) * total))
    cells = [(seen, expected) for seen, expected in cells if expected > 0]
    free = len(cells) - 1
    square = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    return float(((square / free) ** (1 / 3) - (1 - 2 / (9 * free))) / (2 / (9 * free)) ** 0.5)


def model() -> Model:
    """Modules that lean towards what the main model says, but have distributions of their own."""
    return leaning(2, 0.3, vocab_size=WORDS)


@torch.inference_mode()
def law_of(model: Model, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """The probability of every text, from whole forward passes."""
    texts = list(product(range(WORDS), repeat=LENGTH))
    ids = torch.tensor([[*PROMPT, *text] for text in texts])
    p = sampling.probabilities(model(ids)[:, len(PROMPT) - 1 : -1])
    each = p.gather(-1, ids[:, len(PROMPT) :, None]).squeeze(-1).double().prod(dim=1)
    return dict(zip(texts, each.tolist(), strict=True))


def sampled(model: Model, sampling: Sampling, drafts: int) -> Counter[tuple[int, ...]]:
    """Texts and how often they came."""
    prompts = [PROMPT] * TEXTS
    if drafts == 0:
        rows = generate(model, prompts, LENGTH, sampling=sampling)
    else:
        rows = speculate(model, prompts, LENGTH, drafts=drafts, sampling=sampling)
        rate = sum(row.all_accepted for row in rows) / sum(row.all_proposed for row in rows)
        assert 0.05 < rate < 0.95
    return Counter(tuple(row.tokens) for row in rows)


@pytest.mark.parametrize("temperature", [0.7, pytest.param(1.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("drafts", [0, 1, 2, 3])
def test_texts_have_the_models_distribution(drafts: int, temperature: float) -> None:
    proxy, sampling = model(), Sampling(temperature, seed=3)
    assert distance(sampled(proxy, sampling, drafts), law_of(proxy, sampling)) < FAR


def likeliest(p: Tensor, q: Tensor, drafts: Tensor, u: Tensor) -> Tensor:
    """Takes a draft where it is the model's likeliest token."""
    return drafts == p.argmax(-1)


def inverted(p: Tensor, q: Tensor, drafts: Tensor, u: Tensor) -> Tensor:
    """Takes it with min(1, q/p)."""
    return accepts(q, p, drafts, u)


def always(p: Tensor, q: Tensor, drafts: Tensor, u: Tensor) -> Tensor:
    """Takes every second one, whatever it is."""
    return u < 0.5


@pytest.mark.parametrize("drafts", [1, 2])
@pytest.mark.parametrize("rule", [likeliest, inverted, always])
def test_a_wrong_rule_fails_the_same_test(
    monkeypatch: pytest.MonkeyPatch, rule: Callable[..., Tensor], drafts: int
) -> None:
    proxy, sampling = model(), Sampling(0.7, seed=3)
    monkeypatch.setattr(module, "accepts", rule)
    assert distance(sampled(proxy, sampling, drafts), law_of(proxy, sampling)) > 2 * FAR


def test_a_wrong_rest_fails_the_same_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal the model's own distribution is not what is left of it."""
    proxy, sampling = model(), Sampling(0.7, seed=3)

    def naive(
        logits: Tensor, drafts: Tensor, q: Tensor, how: Sampling, random: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        tokens, good = judged(logits, drafts, q, how, random)
        rows = torch.arange(len(good))
        tokens[rows, good] = draw(how.probabilities(logits)[rows, good], random)
        return tokens, good

    monkeypatch.setattr("v3bench.model_ref.speculate.judged", naive)
    assert distance(sampled(proxy, sampling, 1), law_of(proxy, sampling)) > 2 * FAR


def test_a_seed_gives_the_same_texts_again() -> None:
    proxy = model()
    first, again, other = (
        [row.tokens for row in speculate(proxy, [PROMPT] * 20, 8, sampling=Sampling(1.0, seed=seed))]
        for seed in (5, 5, 6)
    )
    assert first == again != other


def test_a_low_temperature_is_greedy() -> None:
    proxy = model()
    prompts = [[1], [2, 0, 3]]
    for drafts in (1, 2):
        cold = speculate(proxy, prompts, 12, drafts=drafts, sampling=Sampling(1e-6, seed=1))
        assert cold == speculate(proxy, prompts, 12, drafts=drafts)


def test_tokens_are_drawn_by_weight() -> None:
    weights = torch.tensor([0.5, 0.0, 3.0, 1.5]).expand(20000, 4)
    counts = torch.bincount(draw(weights, torch.Generator().manual_seed(0)), minlength=4)
    law = {(0,): 0.1, (2,): 0.6, (3,): 0.3}
    assert counts[1] == 0
    assert distance({(i,): int(n) for i, n in enumerate(counts)}, law) < FAR


def test_equal_distributions_accept_every_draft() -> None:
    logits = torch.randn(500, 3, 7)
    sampling, random = Sampling(0.8), torch.Generator().manual_seed(0)
    drafts, q = sampling.choose(logits[:, :2], random)
    tokens, good = judged(logits, drafts, q, sampling, random)
    assert good.tolist() == [2] * 500
    assert torch.equal(tokens[:, :2], drafts)
