"""Which experts a token goes to, and with which gate (V3 report, eq. 13-16; V2 paper, section 2.2.2).

    Plan        how tokens are routed: a value made from the config
    reference   the definition, one token at a time
    route       launcher

T tokens  E routed experts  K experts per token  G groups of E/G experts, of which topk_group are open
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-20  # of the released code: keeps gates finite when all chosen scores underflow


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``method``: noaux_tc (a group counts by its two best), group_limited_greedy (by its best), greedy (no groups)."""

    top_k: int
    scoring: str = "sigmoid"
    method: str = "noaux_tc"
    n_group: int = 1
    topk_group: int = 1
    normalise: bool = True
    scale: float = 1.0

    @property
    def grouped(self) -> bool:
        """Whether some groups are closed to a token."""
        return self.method != "greedy" and self.topk_group < self.n_group


class Routing(NamedTuple):
    """gates (T, K); chosen (T, K) int64, the experts in no particular order; scores (T, E)."""

    gates: Tensor
    chosen: Tensor
    scores: Tensor


def reference(logits: Tensor, bias: Tensor | None, plan: Plan) -> Routing:
    """logits (T, E), bias (E) or None -> Routing. The bias moves the selection, never a gate (eq. 16)."""
    scores = logits.sigmoid() if plan.scoring == "sigmoid" else logits.softmax(dim=-1)
    biased = scores if bias is None else scores + bias
    index = []
    for row in biased.detach():
        groups = row.view(plan.n_group, -1)
        open_to = list(range(plan.n_group))
        if plan.grouped:
            best = 2 if plan.method == "noaux_tc" else 1
            worth = groups.topk(best).values.sum(-1)
            open_to = sorted(worth.topk(plan.topk_group).indices.tolist())
        width = groups.shape[1]
        eligible = torch.tensor([g * width + i for g in open_to for i in range(width)], device=row.device)
        index.append(eligible[row[eligible].topk(plan.top_k).indices])
    chosen = torch.stack(index)
    gates = scores.gather(1, chosen)
    if plan.normalise:
        gates = gates / (gates.sum(-1, keepdim=True) + TINY)  # eq. 13
    return Routing(gates * plan.scale, chosen, scores)


def route(logits: Tensor, bias: Tensor | None, plan: Plan) -> Routing:
    """As ``reference``."""
    scores = logits.sigmoid() if plan.scoring == "sigmoid" else logits.softmax(dim=-1)  # (T, E)
    choice = scores.detach() if bias is None else scores.detach() + bias
    if plan.grouped:
        choice = close_groups(choice, plan)
    index = choice.topk(plan.top_k, dim=-1, sorted=False).indices  # (T, K)
    gates = scores.gather(1, index)
    if plan.normalise:
        gates = gates / (gates.sum(-1, keepdim=True) + TINY)
    if plan.scale != 1.0:
        gates = gates * plan.scale
    return Routing(gates, index, scores)


def close_groups(choice: Tensor, plan: Plan) -> Tensor:
    """choice (T, E) with the experts of all but the topk_group best groups at -inf."""
    groups = choice.view(len(choice), plan.n_group, choice.shape[1] // plan.n_group)  # (T, G, E/G)
    worth = groups.amax(-1) if plan.method == "group_limited_greedy" else groups.topk(2, dim=-1).values.sum(-1)
    closed = worth.topk(plan.n_group - plan.topk_group, dim=-1, largest=False, sorted=False).indices
    closed = closed.unsqueeze(-1).expand(-1, -1, groups.shape[-1])
    return groups.scatter(1, closed, float("-inf")).view_as(choice)
