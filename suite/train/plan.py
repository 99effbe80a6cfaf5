"""What one training run is, as a value: model, arithmetic, data, seeds. Equal plans on equal corpora are equal runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref import precision
from v3bench.model_ref.errors import BadInput
from v3bench.suite import models
from v3bench.suite.models import AnyConfig
from v3bench.suite.train.schedule import LAST, rate_at

FP32 = "fp32"
POSITIVE = ("steps", "batch", "length", "rate", "clip")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run. Its budget is ``steps``, never time, so that machines of any speed make the same run.

    ``model`` is a preset or a config.json with ``change`` put into it. A token is a byte, or one of the tokenizer.json
    that ``tokenizer`` is the path of. ``recipe`` is "fp32", or a name of precision.RECIPES: those train BF16 weights
    over FP32 master weights. Runs with the same ``init`` begin from the same master weights, with the same ``order``
    they see the same data, whatever their recipe; the first ``shared`` of the steps are made in FP32 by all of them, so
    that they part once learning is steady. Optimiser as in V3 (report, section 4.2), the learning rate ``rate`` after a
    linear warm-up, falling by a cosine to ``last`` of it. From the share ``mtp_switch`` of the steps on, the MTP loss
    weighs ``mtp_weight_last``; from ``bias_until`` on, the balancing biases stay.
    """

    model: str
    change: Mapping[str, Any] = field(default_factory=dict, hash=False)
    recipe: str = FP32
    corpus: str = "stdlib"
    tokenizer: str | None = None
    steps: int
    shared: int = 0
    batch: int
    length: int
    init: int = 0
    order: int = 0
    rate: float = 1e-3
    warmup: int = 0
    last: float = LAST
    betas: tuple[float, float] = (0.9, 0.95)
    decay: float = 0.1
    clip: float = 1.0
    bias_speed: float = 1e-3
    bias_until: float = 1.0
    balance_weight: float = 1e-4
    mtp: bool = False
    mtp_weight: float = 0.3
    mtp_weight_last: float = 0.3
    mtp_switch: float = 1.0
    device: str = "cpu"
    held_out: int = 0  # tokens that the loss is measured on when training has ended; 0: none

    def __post_init__(self) -> None:
        if self.recipe != FP32 and self.recipe not in precision.RECIPES:
            right = ", ".join((FP32, *precision.RECIPES))
            raise BadInput(f"unknown recipe {self.recipe!r}", where="plan", right=f"one of {right}")
        for name in POSITIVE:
            if getattr(self, name) <= 0:
                raise BadInput(f"{name} is {getattr(self, name)}", where="plan", right="more than 0")
        if not 0 <= self.shared < self.steps:
            raise BadInput(f"shared is {self.shared}", where="plan", right=f"0 to {self.steps - 1}, less than steps")

    @property
    def config(self) -> AnyConfig:
        """The model's config. Raises BadInput."""
        return models.load(self.model, dict(self.change))[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are multiplied."""
        return torch.float32 if self.recipe == FP32 else torch.bfloat16

    @property
    def tokens(self) -> int:
        """Tokens that are predicted in all."""
        return self.steps * self.batch * self.length

    def ops(self) -> Ops:
        """The implementations. On a GPU BF16 and FP8 run on this project's kernels; of the others the products are
        emulated and the rest is BF16's, so that a pair differs in its products and in what is fused with them.
        """
        if self.recipe == FP32:
            return TORCH
        recipe = precision.RECIPES[self.recipe]
        if self.device != "cuda":
            return precision.ops(recipe)
        if recipe in (precision.BF16, precision.FP8):
            return precision.on_kernels(recipe)
        return precision.ops(recipe, precision.on_kernels(precision.BF16), compute=torch.bfloat16)

    def rate_at(self, step: int) -> float:
        """Learning rate of the step, counted from 0."""
        return rate_at(step, steps=self.steps, rate=self.rate, warmup=self.warmup, last=self.last)

    def mtp_weight_at(self, step: int) -> float:
        """The paper's lambda at the step, counted from 0."""
        return self.mtp_weight if step < self.mtp_switch * self.steps else self.mtp_weight_last

    def bias_speed_at(self, step: int) -> float:
        """The paper's gamma at the step, counted from 0."""
        return self.bias_speed if step < self.bias_until * self.steps else 0.0

    def as_json(self) -> str:
        """The plan as text; equal plans have equal texts."""
        return json.dumps(asdict(self) | {"change": dict(self.change)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that ``as_json`` wrote."""
        raw = json.loads(text)
        return cls(**raw | {"betas": tuple(raw["betas"])})
