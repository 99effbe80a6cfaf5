"""A task of retrieval, and a small model that has learnt it: what is asked of it over a narrow cache is in answers.py.

    Task        pairs of a key and a value, then questions: a key again, to be answered with its value
    trained     a model of a small preset's kind after some steps

A pair is one token, so that one layer of attention can answer. Keys of a sequence differ; the answer is worth
1/values by chance.

B rows  P pairs  D hidden_size
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from v3bench.baselines.dense import Dense
from v3bench.model_ref.config import Config
from v3bench.model_ref.crew import one_thread
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model
from v3bench.suite import models

RATE, WARM_UP, FIRST_PAIRS = 1e-2, 20, 8
SEED = 2187


@dataclass(frozen=True)
class Task:
    """``keys`` pairs a sequence, each key once; the tokens are the pairs, then the keys alone."""

    keys: int = 64
    values: int = 8

    @property
    def vocabulary(self) -> int:
        return self.keys * self.values + self.keys

    @property
    def chance(self) -> float:
        """Accuracy of an answer at random."""
        return 1 / self.values

    def draw(self, rows: int, pairs: int, questions: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """ids (rows, pairs + questions), answers (rows, questions), and how many tokens back each pair lies from the
        first question.
        """
        keys = torch.rand(rows, self.keys, generator=generator).argsort(1)[:, :pairs]
        values = torch.randint(self.values, keys.shape, generator=generator)
        place = torch.rand(rows, pairs, generator=generator).argsort(1)[:, :questions]
        asked = self.keys * self.values + keys.gather(1, place)
        return torch.cat((keys * self.values + values, asked), 1), values.gather(1, place), pairs - place


@cache
def trained(preset: str, task: Task, layers: int, width: int, steps: int, rows: int, seed: int = 0) -> Model | Dense:
    """A model of a small preset's kind, float32 on the CPU, after ``steps`` of AdamW; the same for the same seed.

    The first batches have many sequences of few pairs, the last ``rows`` of all pairs. Raises BadInput for no steps.
    """
    if steps < 1:
        raise BadInput(f"{steps} steps", where="retrieval", right="from 1")
    config = configured(preset, task, layers, width)
    with one_thread():
        return learnt(models.build(config, device="cpu", dtype=torch.float32, mtp=False), task, steps, rows, seed)


def learnt(model: Model | Dense, task: Task, steps: int, rows: int, seed: int) -> Model | Dense:
    """The model's own loop, in place: rates rise, then fall; loss on the answers alone."""
    generator = Generator().manual_seed(SEED + seed)
    model.reset_parameters(generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * max(0.05, 1 - step / steps)
        pairs = min(task.keys, max(FIRST_PAIRS, 2 * step * task.keys // steps))
        ids, answers, _ = task.draw(rows * task.keys // pairs, pairs, pairs, generator)
        logits = model.logits(model.hidden(ids)[:, pairs:])[..., : task.values]
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def configured(preset: str, task: Task, layers: int, width: int) -> models.AnyConfig:
    """The preset with the task's tokens, few layers, no experts; a start of the size at which small models learn."""
    changes: dict[str, Any] = {
        "vocab_size": task.vocabulary, "num_hidden_layers": layers, "hidden_size": width,
        "initializer_range": 0.8 * width**-0.5,
    }  # fmt: skip
    if isinstance(models.load(preset)[1], Config):
        changes |= {"first_k_dense_replace": layers, "num_nextn_predict_layers": 0}
    return models.load(preset, changes)[1]
