"""Small models whose MTP modules draft more or less well, one of them by hand."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from v3bench.model_ref.model import Model

from .tiny import config


def model_of(depth: int, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> Model:
    """Weights larger than usual, so that tokens differ and no near-tie decides."""
    model = Model(config(num_nextn_predict_layers=depth, initializer_range=0.3, **changes), dtype=dtype)
    model.reset_parameters(torch.Generator().manual_seed(seed))
    return model


@torch.no_grad()
def leaning(depth: int, part: float, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> Model:
    """Blocks add only ``part`` of what they would: at 0 every module says what the main model says, at 1 none does."""
    model = model_of(depth, seed, dtype, **changes)
    D = model.config.hidden_size
    for name, parameter in model.named_parameters():
        if name.endswith(("attn.w_o", "w_down")):
            parameter.mul_(part)
    for module in model.mtp:
        module.eh_proj.weight.mul_(part).add_(torch.cat((torch.eye(D), torch.zeros(D, D)), dim=1))
    return model


@torch.no_grad()
def cycle(length: int, wrong: Sequence[Collection[int]]) -> Model:
    """A model that says 0, 1, ..., length - 1, 0, ...; module k, reading a token of ``wrong[k-1]``, drafts one further.

    Blocks add nothing, embeddings are unit vectors, so that a state is the token read, and the head turns it into the
    next one. A module takes the embedding half of its input, with some tokens turned into others.
    """
    model = leaning(len(wrong), 0.0, vocab_size=length)
    assert model.head is not None
    D = model.config.hidden_size
    model.embed.weight.copy_(torch.eye(length, D))
    model.head.weight.copy_(torch.eye(length, D).roll(1, dims=0))  # row t+1 is token t's
    for module, tokens in zip(model.mtp, wrong, strict=True):
        turned: Tensor = torch.eye(D)
        for token in tokens:
            turned[:, token] = torch.eye(D)[(token + 1) % length]
        module.eh_proj.weight.copy_(torch.cat((turned, torch.zeros(D, D)), dim=1))
    return model
