"""An n-gram language model, to say whether a trained one is worth drafting for: interpolated modified Kneser-Ney.

A model of order n predicts a token from the n - 1 before it:

    p_n(w | c) = max(count(c w) - discount, 0) / total(c) + left(c) p_{n-1}(w | c without its first token)

down to p_0 = 1 / W. Counts of the longest n-grams are occurrences; those of shorter ones are how many different tokens
stand before them (Kneser and Ney 1995). The discounts of counts 1, 2 and more follow from how many n-grams have the
counts 1 to 4 (Chen and Goodman 1999, who find no smoothing better; on Python source, a byte a token, it beats Witten
and Bell's and a single discount too). ``left`` passes on what the discounts took, so that every distribution sums to 1;
after a context that was never seen it is all.

An n-gram is known by its place among the sorted ones of its length, and found by a key: the place of its first n - 1
tokens, times W, plus its last. So a key of 64 bits does for any order and vocabulary.

W vocab  S tokens of a row  U contexts
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from v3bench.model_ref.errors import BadInput

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST = 1 << 18  # words of a vocabulary: those of released models
DENSE = 1 << 25  # keys below it are ranked by a table of them all, 5 bytes each, in place of a sort
HELD = 1 << 24  # probabilities that are held at a time: 128 MB
FEW = (0.5, 1.0, 1.5)  # discounts where the counts are too few to give any


@dataclass(frozen=True, eq=False)
class Grams:
    """All n-grams of one length. ``share`` and ``left`` end with an entry more, for what was not seen: place -1.

    keys   sorted
    share  of each, what its own count gives to its last token
    left   of each context, the (n-1)-grams: the weight of the distribution after its shorter context
    """

    keys: Ints
    share: Floats
    left: Floats

    def find(self, keys: Ints) -> Ints:
        """The place of each key, -1 where it is not among them."""
        if not len(self.keys):
            return np.full_like(keys, -1)
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)


@dataclass(frozen=True, eq=False)
class NGram:
    """The n-grams of a text, ``lengths`` from 1 to the model's order."""

    vocab: int
    lengths: tuple[Grams, ...]

    @classmethod
    def of(cls, tokens: Tensor, order: int = 5, vocab: int = 256) -> Self:
        """Of a text (N). Raises BadInput for an empty one, for tokens not below ``vocab``, for that above MOST."""
        if order < 1 or not 1 <= vocab <= MOST:
            what = f"order {order}, {vocab} words"
            raise BadInput(what, where="n-gram", right=f"at least 1, at most {MOST}")
        text = checked(tokens.flatten(), vocab)
        if not len(text):
            raise BadInput("no tokens", where="n-gram", right="a text")
        keys: list[Ints] = []
        places = np.zeros(len(text) + 1, np.int64)  # of the n-gram that ends there; the empty one ends everywhere
        for n in range(1, order):
            found, places = ranked(places[:-1] * vocab + text[n - 1 :], vocab * (len(keys[-1]) if keys else 1))
            keys.append(found)
        found, occurrences = np.unique(places[:-1] * vocab + text[order - 1 :], return_counts=True)
        keys.append(found)
        sizes = [len(own) for own in keys]
        before = [np.bincount(to, minlength=size) for to, size in zip(without_first(keys, vocab), sizes, strict=False)]
        each = zip(keys, [*before, occurrences], [1, *sizes], strict=False)
        return cls(vocab, tuple(smoothed(own, counts, contexts, vocab) for own, counts, contexts in each))

    def bits(self, tokens: Tensor) -> Tensor:
        """-log2 p of each token given those before it in its row, float64 (..., S). Raises BadInput.

        The first of a row have fewer before them than the order asks for, and are predicted from those.
        """
        text = checked(tokens, self.vocab)
        p = np.full(text.shape, 1 / self.vocab)
        for grams, (context, place) in zip(self.lengths, self.read(text), strict=True):
            p = grams.left[context] * p + grams.share[place]
        return torch.from_numpy(-np.log2(p))

    def likeliest(self, tokens: Tensor) -> Tensor:
        """What is most probable in the place of each token, given those before it in its row: int64 (..., S)."""
        contexts = np.stack([context.flatten() for context, _ in self.read(checked(tokens, self.vocab))])
        longest = (contexts >= 0).sum(0) - 1  # the longest that was seen decides
        state = longest << 48 | np.take_along_axis(contexts, longest[None], 0)[0]
        _, first, same = np.unique(state, return_index=True, return_inverse=True)
        step = max(1, HELD // self.vocab)
        some = [contexts[:, first[start : start + step]] for start in range(0, len(first), step)]
        best = np.concatenate([self.distributions(part).argmax(1) for part in some])
        return torch.from_numpy(best[same]).view(tokens.shape)

    def read(self, text: Ints) -> Iterator[tuple[Ints, Ints]]:
        """For n = 1, 2, ...: the places of the n - 1 tokens before each of (..., S), and of these n together."""
        context = np.zeros_like(text)
        for grams in self.lengths:
            place = grams.find(context * self.vocab + text)
            yield context, place
            context = np.concatenate((np.full_like(place[..., :1], -1), place[..., :-1]), -1)

    def distributions(self, contexts: Ints) -> Floats:
        """Probabilities (U, W) of what comes next, from the places (order, U) of the contexts of 0, 1, ... tokens."""
        p = np.full((contexts.shape[1], self.vocab), 1 / self.vocab)
        for grams, context in zip(self.lengths, contexts, strict=True):
            p *= grams.left[context, None]
            first, end = (np.searchsorted(grams.keys, (context + n) * self.vocab) for n in (0, 1))
            size = end - first  # the n-grams of one context lie together
            rows = np.repeat(np.arange(len(size)), size)
            places = np.arange(size.sum()) + np.repeat(first - (np.cumsum(size) - size), size)
            p[rows, grams.keys[places] % self.vocab] += grams.share[places]
        return p


def checked(tokens: Tensor, vocab: int) -> Ints:
    """The tokens as int64. Raises BadInput where one is not below ``vocab``."""
    text: Ints = tokens.cpu().numpy().astype(np.int64)
    if text.size and not 0 <= text.min() <= text.max() < vocab:
        raise BadInput(f"tokens from {text.min()} to {text.max()}", where="n-gram", right=f"0 to {vocab - 1}")
    return text


def ranked(keys: Ints, limit: int) -> tuple[Ints, Ints]:
    """The different keys, sorted, and the place among them of each; all are below ``limit``."""
    if limit > DENSE:
        found, places = np.unique(keys, return_inverse=True)
        return found, places
    seen = np.zeros(limit, bool)
    seen[keys] = True
    rank = np.cumsum(seen, dtype=np.int32)
    return np.flatnonzero(seen), rank[keys].astype(np.int64) - 1


def without_first(keys: list[Ints], vocab: int) -> Iterator[Ints]:
    """For n = 2, 3, ...: of each n-gram, the place among the (n-1)-grams of its last n - 1 tokens."""
    shorter = np.zeros(len(keys[0]), np.int64)
    for below, own in pairwise(keys):
        shorter = np.searchsorted(below, shorter[own // vocab] * vocab + own % vocab)
        yield shorter


def smoothed(keys: Ints, counts: Ints, contexts: int, vocab: int) -> Grams:
    """The n-grams with these counts, after so many different contexts."""
    context = keys // vocab
    taken = np.array([0.0, *discounts(counts)])[counts.clip(max=3)]
    total = np.bincount(context, counts, contexts)
    # What stands before nothing but the text's end, or after nothing but its beginning, has a total of 0.
    share = (counts - taken) / np.maximum(total, 1)[context]
    left = np.where(total > 0, np.bincount(context, taken, contexts) / np.maximum(total, 1), 1.0)
    return Grams(keys, np.append(share, 0.0), np.append(left, 1.0))


def discounts(counts: Ints) -> tuple[float, float, float]:
    """Of the counts 1, 2, and 3 or more (Chen and Goodman 1999, eq. 17)."""
    n1, n2, n3, n4 = np.bincount(counts[counts <= 4], minlength=5)[1:].tolist()
    if not min(n1, n2, n3):
        return FEW
    y = n1 / (n1 + 2 * n2)
    one, two, more = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return (one, two, more) if min(one, two, more) >= 0 else FEW
