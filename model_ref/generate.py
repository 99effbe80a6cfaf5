"""Decoding of several prompts at once, one token a step: the plain way, which speculate.py has to equal.

    Generated   what came of one prompt
    generate    one token a step for every row that is not finished
    Rows        the rows' tokens, and which of them go on

Rows have prompts of any length and end by themselves; a row that is finished leaves the batch and its cache.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.decoder import Decoder
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.sampling import GREEDY, Sampling

FIRST_ROOM = 1024  # new tokens that a cache has room for before it grows: many texts end long before their limit

OnTokens = Callable[[int, list[int]], None]  # (row, its new tokens) after every step
OnLogits = Callable[[list[int], Tensor], None]  # (rows, the logits (rows, W) that their next tokens come from)


@dataclass(frozen=True)
class Generated:
    """tokens: the new ones; steps of the main model after the prompt; drafts proposed and accepted, by draft position.

    Draft position d is accepted where those before it are too. All drafts of a step count, also those of the last
    step that lie behind a stop token or ``max_new_tokens``.
    """

    tokens: list[int]
    steps: int
    proposed: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()

    @property
    def all_proposed(self) -> int:
        """Drafts of all positions."""
        return sum(self.proposed)

    @property
    def all_accepted(self) -> int:
        """Accepted drafts of all positions."""
        return sum(self.accepted)

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted share of the drafts; None without drafts."""
        return self.all_accepted / self.all_proposed if self.all_proposed else None

    @property
    def tokens_per_step(self) -> float | None:
        """New tokens a step, the first left out, which the prompt gives; None without a step."""
        return (len(self.tokens) - 1) / self.steps if self.steps else None


@torch.inference_mode()
def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stop: Collection[int] = (),
    sampling: Sampling = GREEDY,
    on_tokens: OnTokens | None = None,
    on_logits: OnLogits | None = None,
) -> list[Generated]:
    """Continue every prompt until a ``stop`` token (which is kept) or ``max_new_tokens``. Raises BadInput."""
    check(model, prompts, max_new_tokens)
    rows = Rows(len(prompts), max_new_tokens, stop, on_tokens)
    generator = sampling.generator(model.embed.weight.device)
    cache = model.new_cache(len(prompts), room(prompts, max_new_tokens))
    h, _ = prefilled(model, prompts, cache)
    logits = model.logits(newest(h, cache.lengths - 1))  # (B, 1, W)
    while True:
        if on_logits is not None:
            on_logits(rows.live, logits[:, 0])
        ids, _ = sampling.choose(logits, generator)  # (B, 1)
        left = rows.take(ids.tolist())
        if not left:
            return rows.generated()
        if len(left) < len(ids):
            cache.select(left)
            ids = ids[left]
        logits = model.decode(ids, cache)


class Rows:
    """The new tokens of every row; ``live`` are those that go on, in the order of the batch."""

    def __init__(
        self, count: int, max_new_tokens: int, stop: Collection[int], on_tokens: OnTokens | None, drafts: int = 0
    ) -> None:
        self.max_new_tokens, self.stop, self.on_tokens, self.drafts = max_new_tokens, frozenset(stop), on_tokens, drafts
        self.live = list(range(count))
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.steps = [-1] * count  # the prompt's is none
        self.runs = [[0] * (drafts + 1) for _ in range(count)]  # how often so many drafts were good

    def take(self, new: Sequence[Sequence[int]], good: Sequence[int] | None = None) -> list[int]:
        """A step's tokens for every live row -> which of those rows go on, as indices of the batch before."""
        left = []
        for i, (row, fresh) in enumerate(zip(self.live, new, strict=True)):
            self.steps[row] += 1
            if good is not None:
                self.runs[row][good[i]] += 1
            tokens = self.tokens[row]
            kept = list(fresh[: self.max_new_tokens - len(tokens)])
            if not self.stop.isdisjoint(kept):
                kept = kept[: next(j for j, token in enumerate(kept, start=1) if token in self.stop)]
            tokens += kept
            if self.on_tokens is not None:
                self.on_tokens(row, kept)
            if len(tokens) < self.max_new_tokens and tokens[-1] not in self.stop:
                left.append(i)
        self.live = [self.live[i] for i in left]
        return left

    def generated(self) -> list[Generated]:
        """Of every row, in the prompts' order."""
        made = []
        for tokens, steps, runs in zip(self.tokens, self.steps, self.runs, strict=True):
            accepted = tuple(sum(runs[d:]) for d in range(1, self.drafts + 1))
            made.append(Generated(tokens, steps, (sum(runs),) * self.drafts, accepted))
        return made


def room(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """Capacity of a cache to begin with."""
    return max(map(len, prompts)) + min(max_new_tokens, FIRST_ROOM)


def prefilled(model: Decoder, prompts: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Tensor]:
    """States (B, S, D) and tokens (B, S) of the prompts, padded on the right; the cache holds each row's own tokens."""
    longest = max(map(len, prompts))
    padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
    ids = torch.tensor(padded, device=model.embed.weight.device)
    h = model.run(ids, cache)
    cache.truncate([len(prompt) for prompt in prompts])
    return h, ids


def newest(h: Tensor, index: Tensor) -> Tensor:
    """Of h (B, S, D) the state at ``index`` (B) of each row, (B, 1, D)."""
    return h.gather(1, index.view(-1, 1, 1).expand(-1, 1, h.shape[-1]))


def check(model: Decoder, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise BadInput for what cannot be continued."""
    if not prompts or not all(prompts) or max_new_tokens < 1:
        raise BadInput("nothing to do", where="generate", right="prompts of at least one token, one new token or more")
    W = model.config.vocab_size
    if bad := [token for prompt in prompts for token in prompt if not 0 <= token < W]:
        raise BadInput(f"token {bad[0]}", where="generate", right=f"0 to {W - 1}")
