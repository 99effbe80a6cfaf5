"""Greedy decoding, plain and speculative.

    generate    one token a step
    speculate   the MTP modules draft tokens, one step of the main model verifies them (V3 report, section 2.2);
                the tokens are those of ``generate``, up to rounding

Both continue one prompt. Only the newest state of each depth and what later steps still need is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from v3bench.model_ref.decoder import Decoder
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model


class Generated(NamedTuple):
    """tokens: the new ones; steps of the main model after the prompt; drafts proposed to it, and accepted by it."""

    tokens: list[int]
    steps: int
    proposed: int
    accepted: int


@torch.inference_mode()
def generate(model: Decoder, prompt: Sequence[int], max_new_tokens: int, stop: Collection[int] = ()) -> Generated:
    """Continue the prompt until a ``stop`` token (which is kept) or ``max_new_tokens``. Raises BadInput."""
    tensor = checked(model, prompt, max_new_tokens)
    logits, cache = model.prefill(tensor([*prompt]), capacity=len(prompt) + max_new_tokens)
    new = [int(logits[0, -1].argmax())]
    while len(new) < max_new_tokens and new[-1] not in stop:
        new.append(int(model.decode(tensor(new[-1:]), cache)[0, -1].argmax()))
    return Generated(new, len(new) - 1, 0, 0)


@torch.inference_mode()
def speculate(model: Model, prompt: Sequence[int], max_new_tokens: int, stop: Collection[int] = ()) -> Generated:
    """As ``generate``, with one draft per MTP module and step. Raises BadInput without MTP modules."""
    tensor = checked(model, prompt, max_new_tokens)
    if not model.mtp:
        raise BadInput("the model has no MTP modules", where="speculate", right="a checkpoint with them, or generate")
    capacity = len(prompt) + max_new_tokens + len(model.mtp)
    cache = model.new_cache(1, capacity)
    drafter = Drafter(model, tensor, capacity)
    h = model.run(tensor([*prompt]), cache)  # (1, S, D)
    tokens = [*prompt, int(model.logits(h[:, -1:]).argmax())]
    steps = proposed = accepted = 0
    while len(tokens) < len(prompt) + max_new_tokens and not stop_at(tokens, len(prompt), stop):
        drafts = drafter.draft(h, tokens)
        h = model.run(tensor([tokens[-1], *drafts]), cache)  # (1, 1+D, D)
        wanted = model.logits(h)[0].argmax(-1).tolist()  # what the main model says after each of them
        good = next((i for i, draft in enumerate(drafts) if draft != wanted[i]), len(drafts))
        tokens += wanted[: good + 1]
        h = h[:, : good + 1]
        cache.truncate(len(tokens) - 1)
        drafter.keep(len(tokens) - 1)
        steps, proposed, accepted = steps + 1, proposed + len(drafts), accepted + good
    new = tokens[len(prompt) :][:max_new_tokens]
    end = stop_at(new, 0, stop) or len(new)
    return Generated(new[:end], steps, proposed, accepted)


class Drafter:
    """The MTP modules over one sequence. Entry i of module k's cache is position i's and has read token i + k."""

    def __init__(self, model: Model, tensor: Callable[[list[int]], Tensor], capacity: int) -> None:
        self.model, self.tensor = model, tensor
        self.caches = model.new_mtp_caches(1, capacity)
        # For each module the states (1, n, D) it reads: its first position is the first its cache lacks.
        self.states: list[Tensor | None] = [None] * len(self.caches)
        self.positions = 0

    def draft(self, h: Tensor, tokens: Sequence[int]) -> list[int]:
        """h (1, n, D): the main model's newest states; tokens: all, one more than has a state -> a draft per module."""
        sequence = [*tokens]
        self.positions = len(tokens) - 1
        for k, cache in enumerate(self.caches, start=1):
            left = self.states[k - 1]
            self.states[k - 1] = h = h if left is None else torch.cat((left, h), dim=1)
            ids = sequence[cache.longest + k : self.positions + k]
            h = self.model.run_mtp(k, h, self.tensor(ids), cache)
            sequence.append(int(self.model.logits(h[:, -1:]).argmax()))
        return sequence[len(tokens) :]

    def keep(self, known: int) -> None:
        """Forget what has read a failed draft: the first ``known`` tokens are as they were read, the newest is not."""
        end = self.positions
        for k, cache in enumerate(self.caches, start=1):
            states = self.states[k - 1]
            assert states is not None
            first = cache.longest - states.shape[1]  # position of the first state
            cache.truncate(min(cache.longest, max(0, known - k)))
            # From ``end`` on the depth below computes its states anew.
            self.states[k - 1] = states[:, cache.longest - first : end - first]
            end = cache.longest


def stop_at(tokens: Sequence[int], start: int, stop: Collection[int]) -> int:
    """One past the first stop token from ``start`` on; 0 without one."""
    return next((i + 1 for i, token in enumerate(tokens) if i >= start and token in stop), 0)


def checked(model: Decoder, prompt: Sequence[int], max_new_tokens: int) -> Callable[[list[int]], Tensor]:
    """From token lists to tensors (1, n) on the model's device. Raises BadInput for a prompt that cannot be read."""
    if not prompt or max_new_tokens < 1:
        raise BadInput("nothing to do", where="generate", right="a prompt of at least one token, one new token or more")
    if bad := [token for token in prompt if not 0 <= token < model.config.vocab_size]:
        raise BadInput(f"token {bad[0]}", where="generate", right=f"0 to {model.config.vocab_size - 1}")
    return lambda tokens: torch.tensor([tokens], device=model.embed.weight.device)
