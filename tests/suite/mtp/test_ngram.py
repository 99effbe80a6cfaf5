"""The n-gram: by hand, against a dictionary of counts, and as a distribution."""

from __future__ import annotations

from collections import Counter
from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from v3bench.model_ref.errors import BadInput
from v3bench.suite.mtp import ngram
from v3bench.suite.mtp.ngram import FEW, NGram, discounts


def text_of(size: int, vocab: int, seed: int = 1) -> Tensor:
    """Tokens of which some are far more frequent, so that n-grams repeat."""
    weights = 1.0 / torch.arange(1, vocab + 1)
    return torch.multinomial(weights, size, replacement=True, generator=torch.Generator().manual_seed(seed))


def followed(rows: Tensor, vocab: int) -> Tensor:
    """Rows (R, S) followed by every word: (R, vocab, S + 1)."""
    words = torch.arange(vocab).expand(len(rows), -1)[..., None]
    return torch.cat((rows[:, None].expand(-1, vocab, -1), words), -1)


def slow(text: list[int], order: int, vocab: int, context: tuple[int, ...], w: int) -> float:
    """p(w | context), from counts that are made anew and recursion, as the formula reads."""
    n = len(context) + 1
    occurring = Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
    if n < order:  # how many different tokens stand before each
        longer = {tuple(text[i : i + n + 1]) for i in range(len(text) - n)}
        counts = Counter(gram[1:] for gram in longer)
        counts = Counter({gram: counts[gram] for gram in occurring})
    else:
        counts = occurring
    lower = slow(text, order, vocab, context[1:], w) if context else 1 / vocab
    here = {gram: count for gram, count in counts.items() if gram[:-1] == context}
    total = sum(here.values())
    if not total:
        return lower
    taken = (0.0, *discounts(np.array(list(counts.values()))))
    left = sum(taken[min(count, 3)] for count in here.values()) / total
    own = counts[(*context, w)]
    return (own - taken[min(own, 3)]) / total + left * lower


def test_by_hand() -> None:
    """0 1 0 1 1 over 3 words, bigrams; the discounts are those of few counts.

    01 twice, 10 and 11 once. 0 stands after 1 alone, 1 after 0 and 1: counts 1 and 2, of which .5 and 1 are taken.
    p(0) = .5/3 + 1.5/3 * 1/3 = 1/3   p(1) = 1/3 + 1/6 = 1/2   p(2) = 1/6
    p(1|0) = (2-1)/2 + 1/2 * 1/2 = 3/4   p(0|1) = (1-.5)/2 + 1/2 * 1/3 = 5/12   p(2|0) = 1/2 * 1/6 = 1/12
    p(.|2) = p(.), as 2 was never seen.
    """
    model = NGram.of(torch.tensor([0, 1, 0, 1, 1]), order=2, vocab=3)
    got = 2.0 ** -model.bits(torch.tensor([[0, 1, 0, 2, 0, 1], [2, 1, 1, 2, 2, 2]]))
    wanted = [[1 / 3, 3 / 4, 5 / 12, 1 / 12, 1 / 3, 3 / 4], [1 / 6, 1 / 2, 1 / 4 + 1 / 4, 1 / 12, 1 / 6, 1 / 6]]
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64))


def test_discounts_follow_from_the_counts_of_counts() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [8, 4, 2, 1, 5])  # y = 8 / 16
    assert discounts(counts) == (1 - 2 * 0.5 * 4 / 8, 2 - 3 * 0.5 * 2 / 4, 3 - 4 * 0.5 * 1 / 2)
    assert discounts(np.array([1, 1, 2])) == FEW
    assert discounts(np.repeat([1, 2, 3], [1, 1, 9])) == FEW  # one would be negative


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_formula(order: int) -> None:
    text, other = text_of(300, 6), text_of(60, 7, seed=2).reshape(3, 20)
    model = NGram.of(text, order=order, vocab=7)  # token 6 is never seen
    got = model.bits(other)
    for row, bits in zip(other.tolist(), got.tolist(), strict=True):
        for j, w in enumerate(row):
            context = tuple(row[max(0, j - order + 1) : j])
            assert bits[j] == pytest.approx(-log2(slow(text.tolist(), order, 7, context, w)), rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 200), vocab=st.integers(2, 9), order=st.integers(1, 5), seed=st.integers(0, 9))
def test_every_distribution_sums_to_one(size: int, vocab: int, order: int, seed: int) -> None:
    """After contexts that were seen, that were not, and of a row's beginning."""
    model = NGram.of(text_of(size, max(1, vocab - 1), seed), order=order, vocab=vocab)
    rows = text_of(30, vocab, seed + 1).reshape(5, 6)
    for length in range(6):
        each = followed(rows[:, :length], vocab)
        p = 2.0 ** -model.bits(each)[..., -1]  # (5, vocab)
        torch.testing.assert_close(p.sum(1), torch.ones(5, dtype=torch.float64))
        assert p.min() > 0
        contexts = np.stack([context[:, 0, -1] for context, _ in model.read(each.numpy())])
        torch.testing.assert_close(torch.from_numpy(model.distributions(contexts)), p)


def test_ranks_by_sort_and_by_table_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text, other = text_of(500, 9), text_of(50, 9, seed=2)
    by_table = NGram.of(text, vocab=9).bits(other)
    monkeypatch.setattr(ngram, "DENSE", 0)
    assert torch.equal(NGram.of(text, vocab=9).bits(other), by_table)


def test_wide_vocabulary() -> None:
    """Five tokens of 18 bits are more than a key of 64 bits holds."""
    small, wide = text_of(400, 9), torch.tensor([0, 1, 255, 256, 4095, 40000, 65535, 65536, ngram.MOST - 1])
    plain, spread = NGram.of(small, vocab=9), NGram.of(wide[small], vocab=ngram.MOST)
    text = text_of(60, 9, seed=2)
    # Longest n-grams that were seen get nearly the same; the rest differs by what is left for 262,144 words.
    assert [len(grams.keys) for grams in spread.lengths] == [len(grams.keys) for grams in plain.lengths]
    for own, other in zip(plain.lengths, spread.lengths, strict=True):
        np.testing.assert_allclose(own.share, other.share)
    assert (spread.bits(wide[text]) >= plain.bits(text) - 1e-9).all()
    assert torch.equal(spread.likeliest(wide[text]), wide[plain.likeliest(text)])


def test_likeliest_is_the_argmax_of_what_bits_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram, "HELD", 30)  # a few contexts at a time
    model, rows = NGram.of(text_of(300, 6), vocab=7), text_of(40, 7, seed=3).reshape(2, 20)
    got = model.likeliest(rows)
    assert got.shape == rows.shape
    for j in range(20):
        each = followed(rows[:, :j], 7)
        least = model.bits(each)[..., -1]  # (2, 7)
        torch.testing.assert_close(least.gather(1, got[:, j : j + 1])[:, 0], least.min(1).values)
    assert len(got.unique()) > 2


def test_learns_what_repeats() -> None:
    cycle = torch.arange(200) % 7
    model = NGram.of(cycle, vocab=16)
    assert model.bits(cycle[:50])[5:].max() < 0.1
    assert torch.equal(model.likeliest(cycle[:50])[1:], cycle[1:50])
    assert model.bits(torch.tensor([3, 3, 3, 3])).min() > 1


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="n-gram: no tokens"):
        NGram.of(torch.zeros(0, dtype=torch.uint8))
    with pytest.raises(BadInput, match="tokens from 1 to 9; expected 0 to 8"):
        NGram.of(torch.tensor([1, 9]), vocab=9)
    with pytest.raises(BadInput, match="order 0, 256 words; expected at least 1, at most 262144"):
        NGram.of(torch.tensor([1]), order=0)
    with pytest.raises(BadInput, match="tokens from 300 to 300"):
        NGram.of(torch.tensor([1, 2, 3])).bits(torch.tensor([300]))
