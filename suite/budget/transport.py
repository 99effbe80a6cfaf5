"""What number formats cost a message between GPUs: error and bytes per value, for dispatch and for combine.

    FORMATS    by name, as the ledger's claims name them (ISCA 2025, section 3.2)
    message    what is sent: to the experts activations after the norm, back outputs of the residual branch
    sent       the messages of a model
    carried    a message in one format

The claims are about the accuracy of training models of about 7B; an error of values is what they rest on, not
what they say.

T tokens  D hidden_size
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from v3bench.baselines.dense import Dense
from v3bench.model_ref import logfmt
from v3bench.model_ref.formats import E4M3, E5M2
from v3bench.model_ref.model import Model
from v3bench.model_ref.scaling import GUARD, Scaling
from v3bench.suite.budget.distributions import draw
from v3bench.suite.budget.error import Error, error
from v3bench.suite.budget.recorded import recorded
from v3bench.suite.ledger.data import choose

TILE, SCALE = 128, 4  # values that share a float32 scale, and its bytes
EPS = 1e-6


@dataclass(frozen=True)
class Format:
    """What happens to the values (T, D), float32, and what they take."""

    through: Callable[[Tensor], Tensor]
    bits: int
    per_tile: int  # bytes beside the codes of 128 values

    def nbytes(self, T: int, D: int) -> float:
        """Bytes of T rows of D values, codes packed."""
        return T * (D * self.bits / 8 + -(-D // TILE) * self.per_tile)


FORMATS: dict[str, Format] = {
    "logfmt-8": Format(lambda x: logfmt.rounded(x, 8), 8, logfmt.ENDS),
    "logfmt-10": Format(lambda x: logfmt.rounded(x, 10), 10, logfmt.ENDS),
    "e4m3": Format(Scaling(E4M3, (1, TILE), GUARD), 8, SCALE),
    "e5m2": Format(Scaling(E5M2, (1, TILE), GUARD), 8, SCALE),
    "bf16": Format(lambda x: x.bfloat16().float(), 16, 0),
}


class Carried(NamedTuple):
    """What a format does to a message."""

    error: Error
    of_values: float  # mean, over values other than zero, of each one's error over itself
    bytes_per_value: float


def carried(name: str, x: Tensor) -> Carried:
    """x (T, D), finite, synthetic or of a model -> what it loses. Raises BadInput for a format that does not exist."""
    choose(name, FORMATS, "format", "transport")
    form, x = FORMATS[name], x.detach().float()
    y, there = form.through(x), x != 0
    of_values = ((y - x)[there] / x[there]).abs().double().mean()
    return Carried(error(y, x), float(of_values), form.nbytes(*x.shape) / x.numel())


def message(stage: str, distribution: str, T: int, D: int, number: int = 0) -> Tensor:
    """The ``number``-th message of a stage, "dispatch" or "combine", float32 (T, D); dispatched values are normalised.

    Raises BadInput for another stage or distribution.
    """
    choose(stage, ("dispatch", "combine"), "stage", "transport")
    x = draw(distribution, T, D, number)
    if stage == "combine":
        return x
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


@torch.no_grad()
def sent(model: Model | Dense, ids: Tensor) -> dict[str, Tensor]:
    """What a model would send for ids (B, S): what its experts take, "dispatch", and give, "combine", of all layers.

    A dense model's networks stand for experts.
    """
    found = recorded(model, ids)
    kind = "ffn.experts" if any("ffn.experts" in name for name in found) else "ffn"
    taken = [one.x for name, one in found.items() if name.endswith(f"{kind}.w_gate_up")]
    given = [x @ w.mT for name, one in found.items() if name.endswith(f"{kind}.w_down") for x, w in one.by_expert()]
    return {"dispatch": torch.cat(taken), "combine": torch.cat(given)}
