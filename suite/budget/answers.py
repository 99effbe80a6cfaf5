"""What a model that has learnt to retrieve makes of a narrow cache.

    asked     one question a row, over a cache in a format
    cached    what any model's layers cache and ask of it, for cache.py

B rows  L tokens  H heads  D hidden_size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from v3bench.baselines.dense import Dense
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.config import Config
from v3bench.model_ref.crew import one_thread
from v3bench.model_ref.kv_formats import Storage
from v3bench.model_ref.model import Model
from v3bench.suite import models
from v3bench.suite.budget.cache import Layer
from v3bench.suite.budget.retrieval import Task

SEED = 729


@dataclass(frozen=True)
class Answers:
    """What was asked of a cache, one question a row."""

    right: Tensor  # (B) bool
    loss: Tensor  # (B) nats
    distance: Tensor  # (B) tokens from the question back to the pair

    def accuracy(self, nearest: int = 1, farthest: int | None = None) -> float:
        """Of the questions whose pair lies so far back; NaN where there are none."""
        here = self.distance >= nearest
        if farthest is not None:
            here &= self.distance <= farthest
        return float(self.right[here].double().mean())


@cache
@torch.no_grad()
def asked(model: Model | Dense, task: Task, formats: tuple[Storage, ...], rows: int, number: int = 0) -> Answers:
    """One question a row over a cache that was filled in float32 and is kept in ``formats`` (cache.storages).

    A window forgets when it is read, not while it is filled: what later layers cached has seen every token. Kept, as
    is what it was asked of: every format of a case is measured against the same bfloat16.
    """
    ids, answers, distance, context = filled(model, task, rows, number)
    with one_thread():
        logits = twin(model, kept_in(formats)).decode(ids[:, -1:], context)[:, 0, : task.values]
    context.truncate(task.keys)
    loss = F.cross_entropy(logits, answers[:, 0], reduction="none")
    return Answers(logits.argmax(-1) == answers[:, 0], loss, distance[:, 0])


@lru_cache(maxsize=1)
def filled(model: Model | Dense, task: Task, rows: int, number: int) -> tuple[Tensor, Tensor, Tensor, Cache]:
    """The ``number``-th draw of one question a row, as Task.draw gives it, and the model's cache of all its pairs."""
    ids, answers, distance = task.draw(rows, task.keys, 1, Generator().manual_seed(SEED + number))
    with one_thread():
        _, context = model.prefill(ids[:, :-1], capacity=ids.shape[1])
    return ids, answers, distance, context


@torch.no_grad()
def cached(model: Model | Dense, ids: Tensor) -> list[Layer]:
    """What each layer caches of ids (B, S) without the last token, and what the last token asks of it."""
    found: list[Layer] = []
    weights = [value for name, value in model.named_parameters() if name.endswith("w_ukv")]
    _, context = model.prefill(ids[:, :-1], capacity=ids.shape[1])

    def latents(q: Tensor, tokens: Tensor, *, value_dim: int, scale: float, lengths: Tensor | None = None) -> Tensor:
        heads = weights[len(found)].view(q.shape[2], -1, value_dim)  # (H, N+V, C): W_UK, then W_UV
        assert isinstance(model.config, Config)
        w_uv = heads[:, model.config.qk_nope_head_dim :]
        found.append(Layer(q[:, 0], (tokens[:, None].clone(),), scale, value_dim, w_uv))
        return TORCH.mla_decode(q, tokens, value_dim=value_dim, scale=scale, lengths=lengths)

    def keys(q: Tensor, k: Tensor, v: Tensor, *, scale: float, **rest: Any) -> Tensor:
        found.append(Layer(q[:, 0], (k.transpose(1, 2).clone(), v.transpose(1, 2).clone()), scale))
        return TORCH.attention(q, k, v, scale=scale, **rest)

    twin(model, replace(TORCH, name="recording", attention=keys, mla_decode=latents)).decode(ids[:, -1:], context)
    return found


def kept_in(formats: Sequence[Storage]) -> Ops:
    """Torch's operations, where what one query reads of a cache has been stored and loaded."""

    def through(form: Storage, x: Tensor) -> Tensor:
        return form.load(form.store(x))

    def mla_decode(q: Tensor, latents: Tensor, **rest: Any) -> Tensor:
        return TORCH.mla_decode(q, through(formats[0], latents), **rest)

    def attention(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Tensor:
        k, v = (through(form, x.transpose(1, 2)).transpose(1, 2) for form, x in zip(formats, (k, v), strict=True))
        return TORCH.attention(q, k, v, **rest)

    return replace(TORCH, name="stored", attention=attention, mla_decode=mla_decode)


def twin(model: Model | Dense, ops: Ops) -> Model | Dense:
    """The same weights on other operations."""
    like = model.embed.weight
    other = models.build(model.config, device=like.device, dtype=like.dtype, ops=ops, mtp=False)
    own: Mapping[str, Tensor] = model.state_dict()
    other.load_state_dict({name: own[name] for name in other.state_dict()}, assign=True)
    return other.eval()
