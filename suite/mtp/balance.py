"""How evenly a model's experts are loaded by a text."""

from __future__ import annotations

import torch
from torch import Tensor
from v3bench.kernels.route import Routing
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model
from v3bench.model_ref.moe import expert_loads


def max_violation(loads: Tensor) -> Tensor:
    """Load of the expert that has most over the mean load, less 1, float64 (...): 0 where all have the same.

    MaxVio of auxiliary-loss-free balancing (Wang et al. 2024, arXiv:2408.15664, section 4.1), there over a batch or a
    whole validation set; here over whatever was counted. loads (..., E), tokens of each expert. Raises BadInput where
    no expert of a layer has any.
    """
    loads = loads.double()
    mean = loads.mean(-1)
    if not bool((mean > 0).all()):
        raise BadInput("a layer without load", where="max_violation", right="loads of at least one token")
    return loads.amax(-1) / mean - 1


@torch.no_grad()
def loads_of(model: Model, ids: Tensor, rows: int = 128) -> Tensor:
    """Tokens of each expert, int64 (MoE blocks, E), as ``Loss.loads``: the layers', then the MTP modules'.

    Windows ids (N, T + 1), so many ``rows`` at a time, read as in training.
    """
    blocks, E = model.moe_blocks(), model.config.n_routed_experts
    loads = torch.zeros(len(blocks), E, dtype=torch.int64)
    for some in ids.to(model.embed.weight.device).split(rows):
        routings: list[Routing] = []
        h = model.hidden(some[:, :-1], routings)
        for _ in model.further(h, some, routings):
            pass
        for load, routing in zip(loads, routings, strict=True):
            load += expert_loads(routing.chosen, E).cpu()
    return loads
