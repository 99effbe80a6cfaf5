"""One training run, a step at a time; it can be stopped anywhere and goes on to the same bits.

Weights that are multiplied in BF16 are rounded from FP32 master weights, which the optimiser moves; its states are
FP32 too (V3's, in BF16, are a part of its recipe that is not tested here).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model
from v3bench.suite import models, tokens
from v3bench.suite.train.corpus import WORDS, Batches, Corpus
from v3bench.suite.train.plan import Plan


class Outcome(NamedTuple):
    """What a run gave: nats per token of every step, of held-out text (None: not asked for), and on which corpus.

    A run whose loss is no number ends there; ``losses`` are those before, and ``why`` says so.
    """

    losses: tuple[float, ...]
    held_out: float | None
    corpus: str
    why: str = ""


class Trainer:
    """A model being trained by a plan on a corpus; ``done`` steps of it are. It begins anew, or from a ``state``."""

    def __init__(self, plan: Plan, corpus: Corpus, state: Mapping[str, Tensor] | None = None) -> None:
        config = plan.config
        if corpus.encoding is not None:
            tokens.match(corpus.encoding.tokens, config.vocab_size, f"{plan.tokenizer} for {plan.model}")
        elif config.vocab_size < WORDS:
            raise BadInput(f"vocab_size {config.vocab_size}", where=plan.model, right=f"at least {WORDS}: bytes")
        self.plan, self.corpus, self.done = plan, corpus, 0
        self.batches = Batches(corpus.train, plan.batch, plan.length, plan.order)
        self.batches.need(plan.steps, corpus.name)
        self.model = models.build(config, device="meta", dtype=torch.float32, ops=plan.ops(), mtp=plan.mtp)
        if state is None:  # on the CPU: the same weights whatever the device
            self.model.to_empty(device="cpu")
            self.model.reset_parameters(torch.Generator().manual_seed(plan.init))
            self.model.to(plan.device)
        else:
            self.model.to_empty(device=plan.device)
        self.parameters = dict(self.model.named_parameters())
        self.masters = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(plan.dtype)
        matrices = [master for master in self.masters.values() if master.ndim > 1]
        others = [master for master in self.masters.values() if master.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": plan.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=plan.betas, fused=True)
        self.losses = torch.zeros(plan.steps, dtype=torch.float64, device=plan.device)
        if state is not None:
            self.restore(state)

    def step(self) -> None:
        """One batch: forward, backward, clipping, AdamW, and V3's update of the balancing biases."""
        plan = self.plan
        ids = self.batches[self.done].to(plan.device)
        if isinstance(self.model, Model):
            weight = plan.mtp_weight_at(self.done)
            loss = self.model.loss(ids, mtp_weight=weight, balance_weight=plan.balance_weight)
            total, main, loads = loss.total, loss.main, loss.loads
        else:
            total, main = self.model.loss(ids)[:2]
            loads = None
        total.backward()
        for name, parameter in self.parameters.items():
            self.masters[name].grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        nn.utils.clip_grad_norm_(self.masters.values(), plan.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate_at(self.done)
        self.optimizer.step()
        self.spread()
        if loads is not None and isinstance(self.model, Model):
            self.model.update_biases(loads, plan.bias_speed_at(self.done))
        self.losses[self.done] = main.detach()
        self.done += 1

    @torch.no_grad()
    def spread(self) -> None:
        """Round the master weights into the model."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.masters[name])

    @torch.no_grad()
    def held_out_loss(self, tokens: int) -> float:
        """Nats per token over so many of the held-out ones, or all there are, in the order of the files."""
        length = self.plan.length
        windows = min(tokens, len(self.corpus.held_out) - 1) // length
        if not windows:
            what = f"{tokens} tokens of {len(self.corpus.held_out)}"
            raise BadInput(what, where="held out", right=f"at least {length + 1}")
        starts = torch.arange(windows) * length
        total = 0.0
        for part in starts.split(self.plan.batch):
            ids = self.corpus.held_out[part[:, None] + torch.arange(length + 1)].long().to(self.plan.device)
            main = (
                self.model.loss(ids, mtp_weight=0.0, balance_weight=0.0).main
                if isinstance(self.model, Model)
                else self.model.loss(ids).main
            )
            total += main.item() * len(part)
        return total / windows

    def state(self) -> dict[str, Tensor]:
        """All that goes on with the run: masters, optimiser states, balancing biases, losses."""
        tensors = {f"master.{name}": master for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for key, value in self.optimizer.state[master].items():
                tensors[f"{key}.{name}"] = value
        tensors |= {f"buffer.{name}": buffer for name, buffer in self.buffers().items()}
        return tensors | {"losses": self.losses, "done": torch.tensor(self.done)}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a ``state``. Raises KeyError and RuntimeError for one of another model."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"master.{name}"])
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{key}.{name}" in tensors:
                    self.optimizer.state[master][key] = tensors[f"{key}.{name}"].to(master.device, copy=True)
        for name, buffer in self.buffers().items():
            buffer.copy_(tensors[f"buffer.{name}"])
        self.losses.copy_(tensors["losses"])
        self.done = int(tensors["done"])
        self.spread()

    def buffers(self) -> dict[str, Tensor]:
        """What the model keeps beside its parameters."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in self.parameters}

    def outcome(self) -> Outcome:
        """What the run gave."""
        losses = tuple(self.losses[: self.done].tolist())
        if why := self.trouble():
            return Outcome(losses[: self.finite_steps()], None, self.corpus.sha256, why)
        held_out = self.held_out_loss(self.plan.held_out) if self.plan.held_out else None
        return Outcome(losses, held_out, self.corpus.sha256)

    def trouble(self) -> str:
        """Why the run has come to nothing, or ""."""
        first = self.finite_steps()
        return "" if first == self.done else f"the loss of step {first} is {float(self.losses[first])}"

    def finite_steps(self) -> int:
        """Steps before the first whose loss is no number."""
        bad = (~self.losses[: self.done].isfinite()).nonzero()
        return int(bad[0]) if len(bad) else self.done
