"""What is timed side by side: our models, and the transformers package with the same weights, behind one face.

Training is forward, cross entropy and backward, without optimiser and without MTP, alike for all.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.suite import models
from v3bench.suite.bench import checkpoints

SEED = 20250514


class Contestant(ABC):
    """One model that can prefill, decode and train; ids (B, S) int64."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def logits(self, ids: Tensor) -> Tensor:
        """(B, S, W), with a graph for the backward pass."""

    @abstractmethod
    def prefill(self, ids: Tensor) -> tuple[Tensor, Any]:
        """Logits (B, S, W) and a filled cache."""

    @abstractmethod
    def decode(self, ids: Tensor, cache: Any) -> Tensor:
        """Logits (B, n, W) of the next n tokens; the cache grows in place."""

    @abstractmethod
    def rewind(self, cache: Any, count: int) -> None:
        """Take the last ``count`` tokens out of the cache."""

    def continuation(self, ids: Tensor, cache: Any) -> Tensor:
        """Logits (B, n, W) of ids (B, n), given one token at a time; the cache is as before afterwards."""
        with torch.inference_mode():
            steps = [self.decode(ids[:, i : i + 1], cache) for i in range(ids.shape[1])]
            self.rewind(cache, ids.shape[1])
        return torch.cat(steps, dim=1)

    def train_step(self, ids: Tensor) -> None:
        """Gradients of the next-token loss on ids (B, T+1)."""
        self.model.zero_grad(set_to_none=True)
        F.cross_entropy(self.logits(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()


class Ours(Contestant):
    """A model of this project."""

    def logits(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(ids)
        return logits

    def prefill(self, ids: Tensor) -> tuple[Tensor, Any]:
        logits, cache = self.model.prefill(ids)
        return logits, cache

    def decode(self, ids: Tensor, cache: Any) -> Tensor:
        logits: Tensor = self.model.decode(ids, cache)
        return logits

    def rewind(self, cache: Any, count: int) -> None:
        cache.truncate(cache.longest - count)


class Theirs(Contestant):
    """A model of the transformers package, with the attention and the cache it takes by itself."""

    def logits(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(ids, use_cache=False).logits
        return logits

    def prefill(self, ids: Tensor) -> tuple[Tensor, Any]:
        out = self.model(ids, use_cache=True)
        return out.logits, out.past_key_values

    def decode(self, ids: Tensor, cache: Any) -> Tensor:
        logits: Tensor = self.model(ids, past_key_values=cache, use_cache=True).logits
        return logits

    def rewind(self, cache: Any, count: int) -> None:
        cache.crop(-count)  # a negative number is read alike by all versions


def enter(series: tuple[str, ...], device: str) -> dict[str, Contestant]:
    """A contestant for each "subject/impl", float32, on random weights that the implementations of a subject share.

    Skips the benchmark where the transformers package is missing.
    """
    subjects = dict.fromkeys(name.split("/")[0] for name in series)
    made: dict[str, Contestant] = {}
    for subject in subjects:
        if f"{subject}/transformers" in series:
            ours, theirs = with_transformers(subject, device)
            made |= {f"{subject}/torch": ours, f"{subject}/transformers": theirs}
        else:
            torch.manual_seed(SEED)
            config = models.load(subject)[1]
            made[f"{subject}/torch"] = Ours(models.build(config, device=device, dtype=torch.float32, mtp=False))
    return {name: made[name] for name in series}


def with_transformers(subject: str, device: str) -> tuple[Ours, Theirs]:
    """A preset as the transformers package makes it, and ours loaded from what it saves."""
    transformers = pytest.importorskip("transformers", reason="the transformers package is not installed")
    transformers.logging.set_verbosity_error()
    raw = json.loads(models.presets()[subject].read_text(encoding="utf-8")) | {"num_nextn_predict_layers": 0}
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(raw), encoding="utf-8")
        torch.manual_seed(SEED)
        config = transformers.AutoConfig.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.1)  # zeros would not show whether the bias is used
        model.save_pretrained(folder)
        ours = checkpoints.load(folder, dtype=torch.float32, device=device)
    return Ours(ours), Theirs(model.to(device))
