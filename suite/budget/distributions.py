"""What matrices the error budget is drawn from, besides activations that a model had (recorded.py).

Elements have unit scale before outliers are put in: all quantisers but the raw cast are blind to the overall size.

R rows (tokens)  C columns (channels)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from v3bench.suite.ledger.data import choose

FREEDOM = 3  # degrees of freedom of Student's t: the fewest whole ones with a finite variance
OUTLIERS = (30.0, 100.0)  # times the others
CHANNELS, TOKENS = 512, 64  # one channel of so many is an outlier, one token of so many
SEED = 3407


def gaussian(R: int, C: int, generator: Generator) -> Tensor:
    return torch.randn(R, C, generator=generator)


def laplace(R: int, C: int, generator: Generator) -> Tensor:
    """The difference of two exponential variables."""
    pair = torch.empty(2, R, C).exponential_(generator=generator)
    return pair[0] - pair[1]


def student_t(R: int, C: int, generator: Generator) -> Tensor:
    """A Gaussian over the root of a mean of FREEDOM squared ones: heavy tails, without place."""
    squares = torch.randn(FREEDOM, R, C, generator=generator).square_().mean(0)
    return gaussian(R, C, generator) / squares.sqrt_()


def outlier_channels(R: int, C: int, generator: Generator) -> Tensor:
    """Gaussian, but one channel of CHANNELS, at least one, is 30 to 100 times the others, in every token."""
    return gaussian(R, C, generator).mul_(factors(C, CHANNELS, generator))


def outlier_tokens(R: int, C: int, generator: Generator) -> Tensor:
    """Gaussian, but one token of TOKENS, at least one, is 30 to 100 times the others, in every channel.

    V3 report, appendix B.2: block-wise scales suffer from outliers that tokens have in common.
    """
    return gaussian(R, C, generator).mul_(factors(R, TOKENS, generator).unsqueeze(1))


def factors(count: int, one_of: int, generator: Generator) -> Tensor:
    """(count) ones, and between OUTLIERS at one place of ``one_of``, chosen at random."""
    found = torch.ones(count)
    where = torch.randperm(count, generator=generator)[: -(-count // one_of)]
    low, high = OUTLIERS
    found[where] = low + (high - low) * torch.rand(len(where), generator=generator)
    return found


DISTRIBUTIONS: dict[str, Callable[[int, int, Generator], Tensor]] = {
    "gaussian": gaussian,
    "laplace": laplace,
    "student-t": student_t,
    "outlier-channels": outlier_channels,
    "outlier-tokens": outlier_tokens,
}


def draw(name: str, R: int, C: int, number: int = 0) -> Tensor:
    """The ``number``-th sample (R, C) float32 of a distribution, always the same. Raises BadInput for another name."""
    choose(name, DISTRIBUTIONS, "distribution", "draw")
    return DISTRIBUTIONS[name](R, C, Generator().manual_seed(SEED + number))
