"""Speculative decoding (V3 report, section 2.2): the MTP modules draft, one step of the main model verifies.

    speculate   as ``generate``, several tokens a step: greedy the same tokens, sampled the same distribution
    Drafter     the modules over the rows of a batch

Of a row whose first L tokens are known, the main model has read L - 1. Module k has an entry for every position whose
token k further is known, L - k of them; what it reads beyond, up to position L - 2, are drafts, and is forgotten.
Draft k is what module k says there. The last module drafts on from its own states, at positions L - 1, L, ...

B rows  D drafts of a step (as a width: hidden_size)  K modules in use  W vocab_size
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.generate import Generated, OnTokens, Rows, check, newest, prefilled, room
from v3bench.model_ref.model import Model
from v3bench.model_ref.sampling import GREEDY, Sampling, judged


@torch.inference_mode()
def speculate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    drafts: int = 1,
    stop: Collection[int] = (),
    sampling: Sampling = GREEDY,
    on_tokens: OnTokens | None = None,
) -> list[Generated]:
    """As ``generate``, with ``drafts`` tokens a step drafted. Raises BadInput, without MTP modules too."""
    check(model, prompts, max_new_tokens)
    if not model.mtp:
        raise BadInput("the model has no MTP modules", where="speculate", right="a checkpoint with them, or generate")
    if drafts < 1:
        raise BadInput(f"drafts is {drafts}", where="speculate", right="1 or more")
    generator = sampling.generator(model.embed.weight.device)
    rows = Rows(len(prompts), max_new_tokens, stop, on_tokens, drafts)
    capacity = room(prompts, max_new_tokens) + drafts
    cache = model.new_cache(len(prompts), capacity)
    drafter = Drafter(model, len(prompts), capacity, drafts, sampling, generator)
    h, ids = prefilled(model, prompts, cache)
    last = cache.lengths  # of the first new token
    pending, _ = sampling.choose(model.logits(newest(h, last - 1)), generator)  # (B, 1), known and not yet read
    drafter.read(h, F.pad(ids, (0, 1)).scatter(1, last[:, None], pending), last)
    left = rows.take(pending.tolist())
    while left:
        if len(left) < cache.batch:
            cache.select(left)
            drafter.select(left)
            pending = pending[left]
        drafted, q = drafter.drafts([length + 1 for length in cache.host_lengths])
        h = model.run(torch.cat((pending, drafted), dim=1), cache)  # (B, 1+D, hidden_size)
        tokens, good = judged(model.logits(h), drafted, q, sampling, generator)
        pending = tokens.gather(1, good[:, None])
        drafter.read(h, tokens, good)
        # The one wait for the device in a step.
        known = torch.cat((good[:, None], tokens), dim=1).tolist()
        left = rows.take([row[1 : row[0] + 2] for row in known], [row[0] for row in known])
        cache.truncate([n - drafts + row[0] for n, row in zip(cache.host_lengths, known, strict=True)])
    return rows.generated()


class Drafter:
    """``read`` what is new, then ask for ``drafts``; nothing waits for the device in between."""

    def __init__(
        self, model: Model, batch: int, capacity: int, count: int, sampling: Sampling, generator: torch.Generator
    ) -> None:
        self.model, self.count, self.sampling, self.generator = model, count, sampling, generator
        self.caches = model.new_mtp_caches(batch, capacity)[:count]
        self.known = [0] * batch  # tokens of each row, as of the last ``drafts``
        # Of each module but the last, the newest state that the next module has not read with a known token, (B, 1, D).
        self.kept: list[Tensor] = []
        self.made: list[tuple[Tensor, Tensor | None]] = []  # drafts (B, 1) and their distributions (B, 1, W)

    def read(self, h: Tensor, fresh: Tensor, last: Tensor) -> None:
        """Run every module up to the newest position of each row.

        h (B, m, D) are the main model's states of the positions from the newest known token on, as of before; fresh
        (B, n) the tokens after it, at the first call all tokens; those up to index ``last`` (B) are known.
        """
        K, state = len(self.caches), h
        ids = F.pad(fresh, (0, 2 * (K - 1)))  # room for drafts, and for what is read beyond them
        kept: list[Tensor] = []
        self.made = []
        for k, cache in enumerate(self.caches, start=1):
            # Module k goes on at position known - k: its token is fresh[0]. Or at 0, where that is before the prompt.
            skipped = shift([max(0, k - n) for n in self.known], ids.device)
            if k > 1 and self.kept:
                joined = torch.cat((self.kept[k - 2], state), dim=1)
                state = window(joined, shift([min(1, max(0, k - n)) for n in self.known], ids.device), joined.shape[1])
            state = self.model.run_mtp(k, state, window(ids, skipped, state.shape[1]), cache)  # (B, m+k-1, D)
            self.state = newest(state, last + (k - 1 - skipped))
            self.choose()
            if k < K:
                kept.append(newest(state, (last - skipped).clamp(min=0)))
                ids.scatter_(1, last[:, None] + k, self.made[-1][0])
        self.kept = kept

    def choose(self) -> None:
        """A draft from the newest state."""
        self.made.append(self.sampling.choose(self.model.logits(self.state), self.generator))

    def drafts(self, known: list[int]) -> tuple[Tensor, Tensor | None]:
        """Drafts (B, D) and their distributions (B, D, W), None where greedy; ``known`` tokens of every row."""
        K, cache = len(self.caches), self.caches[-1]
        if self.count > K:
            cache.truncate([n - 1 for n in known])
        while len(self.made) < self.count:
            self.state = self.model.run_mtp(K, self.state, self.made[-1][0], cache)
            self.choose()
        for k, cache in enumerate(self.caches, start=1):
            cache.truncate([max(0, n - k) for n in known])
        self.known = known
        drafts, laws = zip(*self.made, strict=True)
        return torch.cat(drafts, dim=1), None if self.sampling.greedy else torch.cat(laws, dim=1)

    def select(self, rows: list[int]) -> None:
        """Keep these rows only."""
        for cache in self.caches:
            cache.select(rows)
        self.kept = [state[rows] for state in self.kept]
        self.made = [(ids[rows], None if law is None else law[rows]) for ids, law in self.made]
        self.state = self.state[rows]


def shift(by: list[int], device: torch.device) -> int | Tensor:
    """One number where all rows have the same, else (B)."""
    return by[0] if len(set(by)) == 1 else torch.tensor(by, device=device)


def window(x: Tensor, start: int | Tensor, width: int) -> Tensor:
    """``width`` entries of each row of x (B, n, ...), from its ``start`` on; the last one again where x ends before."""
    if isinstance(start, int):
        return x[:, start : start + width]
    index = start[:, None] + torch.arange(width, device=x.device)
    return x[torch.arange(len(x), device=x.device)[:, None], index.clamp(max=x.shape[1] - 1)]
