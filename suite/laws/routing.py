"""Where a token's experts lie: distinct groups (nodes) touched, free and node-limited (V3 report 2.1.2, ISCA 4.3).

Free routing draws K experts uniformly out of E without repetition, E in G equal groups: exact, by counting.
Limited routing keeps the ``limit`` groups with the largest sum of their two best scores and takes the K best experts
left, as ``noaux_tc`` does. Which groups win depends on the scores' distribution, so that is simulated: scores are
independent and uniform, the seed is fixed, and the error of the mean is given with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Self

from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput

SEED = 20250514
TOKENS = 5_000  # standard error of the mean: 0.003 groups


@dataclass(frozen=True)
class Routing:
    """E experts in G equal groups, K chosen, at most ``limit`` groups touched."""

    experts: int
    groups: int
    chosen: int
    limit: int

    @classmethod
    def of(cls, config: object) -> Self:
        """The routing of a config. Raises BadInput for a model without experts."""
        if not isinstance(config, Config):
            raise BadInput("the model routes no experts", right="a model of the deepseek_v3 family")
        return cls(config.n_routed_experts, config.n_group, config.num_experts_per_tok, config.topk_group)

    @property
    def per_group(self) -> int:
        return self.experts // self.groups


def chance_of(routing: Routing, touched: int) -> float:
    """Probability that free routing touches exactly ``touched`` groups: inclusion and exclusion over the others."""
    choices = sum(
        (-1) ** (touched - n) * math.comb(touched, n) * math.comb(n * routing.per_group, routing.chosen)
        for n in range(touched + 1)
    )
    return float(math.comb(routing.groups, touched) * choices / math.comb(routing.experts, routing.chosen))


def mean_groups(routing: Routing) -> float:
    """Mean number of groups that free routing touches: each is missed with one hypergeometric probability."""
    missed = math.comb(routing.experts - routing.per_group, routing.chosen) / math.comb(routing.experts, routing.chosen)
    return routing.groups * (1 - missed)


def chance_of_all_groups(routing: Routing) -> float:
    """Probability that free routing touches as many groups as it can."""
    return chance_of(routing, min(routing.groups, routing.chosen))


def chance_within_limit(routing: Routing) -> float:
    """Probability that free routing stays within the limit by itself."""
    return sum(chance_of(routing, n) for n in range(1, routing.limit + 1))


@cache
def limited(routing: Routing, tokens: int = TOKENS, seed: int = SEED) -> tuple[float, float]:
    """(mean, standard error) of the groups that limited routing touches, over ``tokens`` simulated tokens."""
    import numpy as np

    scores = np.random.default_rng(seed).random((tokens, routing.groups, routing.per_group), dtype=np.float32)
    best = np.partition(scores, -2, axis=-1)[..., -2:].sum(axis=-1)
    kept = np.argpartition(best, -routing.limit, axis=-1)[:, -routing.limit :]
    eligible = np.take_along_axis(scores, kept[..., None], axis=1)
    flat = eligible.reshape(tokens, -1)
    chosen = np.argpartition(flat, -routing.chosen, axis=-1)[:, -routing.chosen :] // routing.per_group
    touched = (chosen[..., None] == np.arange(routing.limit)).any(axis=1).sum(axis=-1)
    return float(touched.mean()), float(touched.std(ddof=1) / math.sqrt(tokens))


def limited_mean(routing: Routing) -> float:
    """Mean number of groups that limited routing touches."""
    return limited(routing)[0]


def limited_mean_error(routing: Routing) -> float:
    """Standard error of ``limited_mean``."""
    return limited(routing)[1]
