"""A proxy as it is after some training, for measures that a model of random weights would not show.

Trained once in a process and kept: several benchmarks read the same one. As its plan trains it, in float32 or in BF16
by the operations of that recipe, whatever is measured of it later.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from v3bench.baselines.checkpoint import DENSE
from v3bench.baselines.dense import Dense
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref import precision
from v3bench.model_ref.checkpoint import DEEPSEEK
from v3bench.model_ref.checkpoint_export import released
from v3bench.model_ref.checkpoint_files import SINGLE
from v3bench.model_ref.config import Config, override, read_json
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model
from v3bench.suite import models
from v3bench.suite.run_folder import write_whole
from v3bench.suite.train import checkpoint, proxies
from v3bench.suite.train.plan import Plan
from v3bench.suite.train.trainer import Trainer

CONFIG = "config.json"  # of a checkpoint; written last


class Trained:
    """A trained proxy, in evaluation; ``plan`` says how it came about, of which ``steps`` were made."""

    def __init__(self, trainer: Trainer) -> None:
        self.plan, self.steps, self.model, self.corpus = trainer.plan, trainer.done, trainer.model, trainer.corpus
        self.order = trainer.batches.order
        self.losses = tuple(trainer.losses[: self.steps].tolist())  # nats per token

    def rebuilt(self, ops: Ops = TORCH, dtype: torch.dtype = torch.float32) -> Model | Dense:
        """The same weights on other operations, rounded to ``dtype``."""
        config, device = self.model.config, self.model.embed.weight.device
        other = models.build(config, device=device, dtype=dtype, ops=ops, mtp=self.plan.mtp)
        other.load_state_dict(self.model.state_dict())
        return other

    def by(self, recipe: str) -> Model | Dense:
        """The same weights by a recipe: "bf16" throughout; of the others the products alone, all else in float32."""
        dtype = torch.bfloat16 if recipe == precision.BF16.name else torch.float32
        return self.rebuilt(precision.ops(precision.RECIPES[recipe]), dtype)

    def held_out(self, rows: int, tokens: int) -> Tensor:
        """ids int64 (rows, tokens) of text that it has not seen, spread over the files."""
        text = self.corpus.held_out
        starts = torch.linspace(0, len(text) - tokens, rows).long()
        ids: Tensor = text[starts[:, None] + torch.arange(tokens)].long().to(self.model.embed.weight.device)
        return ids

    def read(self) -> Tensor:
        """The tokens that it was trained on, (N): windows that lie side by side there do so here."""
        order = self.order[: self.steps * self.plan.batch].sort().values
        starts = order * self.plan.length
        text: Tensor = self.corpus.train[(starts[:, None] + torch.arange(self.plan.length)).flatten()]
        return text

    def write(self, folder: Path) -> None:
        """The weights as a checkpoint that ``load_pretrained`` and ``v3bench generate`` read, with its tokenizer.

        Raises BadInput.
        """
        config = self.model.config
        table = DEEPSEEK if isinstance(config, Config) else DENSE
        tensors = {name: w.contiguous() for name, w in released(self.model, config, table).items()}
        raw = override(read_json(models.presets()[self.plan.model]), dict(self.plan.change), self.plan.model)
        encoding = self.corpus.encoding
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / SINGLE, save(tensors, metadata={"format": "pt"}))
            for name, data in ({} if encoding is None else encoding.tokens.files).items():
                write_whole(folder / name, data)
            write_whole(folder / CONFIG, json.dumps(raw, indent=1) + "\n")
        except OSError as error:
            what = f"cannot be written ({error.strerror})"
            raise BadInput(what, where=str(folder), right="a disk with room") from error

    @property
    def about(self) -> str:
        """The training in words, for a convention."""
        tokens = self.steps * self.plan.batch * self.plan.length
        return f"trained on {tokens} tokens of {self.corpus.about}"


@cache
def trained(name: str, steps: int, batch: int, length: int, device: str) -> Trained:
    """The proxy ``name`` after ``steps`` steps of ``batch`` x ``length`` tokens. Raises BadInput."""
    proxy = proxies.read(name)
    plan = Plan(
        model=proxy.preset, change=proxy.change, steps=steps, batch=batch, length=length, warmup=steps // 10,
        rate=2e-3, device=device,
    )  # fmt: skip
    return Trained(checkpoint.trained(plan))
