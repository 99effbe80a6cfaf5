"""Trial of routing (kernels/route_fused.py): DeepSeek-V3's groups of experts, 4 of 8 open to a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from v3bench.kernels import route, route_fused
from v3bench.kernels.route import Plan, Routing
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.trial import Inputs, Rival, Shape, Trial

# A score passes an exponential and a quotient, a gate a sum and another quotient besides, each good to 2 roundings of
# float32 on a GPU; 16 of independent sign are 4 units.
ROUNDINGS = 16
NEAR = 1e-6  # scores this close may change places: eight units of float32 at 1


def plan(top_k: int) -> Plan:
    """DeepSeek-V3's, with another number of experts a token."""
    return Plan(top_k=top_k, n_group=8, topk_group=4, scale=2.5)


def inputs(shape: Shape, device: str) -> Inputs:
    """logits (T, E) and a bias that moves some choices."""
    logits = torch.randn(shape["T"], shape["E"], device=device)
    return {"logits": logits, "bias": torch.randn(shape["E"], device=device) * 0.1, "plan": plan(shape["K"])}


def oracle(logits: Tensor, bias: Tensor | None, plan: Plan) -> Routing:
    """The definition's fast form, in float64."""
    return route.route(logits.double(), None if bias is None else bias.double(), plan)


def error(got: Any, want: Routing, inputs: Inputs) -> float:
    """Scores, gates of the experts chosen, and the set of these wherever float32 can tell the last from the next."""
    gates, chosen, scores = got
    plan: Plan = inputs["plan"]
    ordered = chosen.sort(-1).values
    T, E = scores.shape
    if chosen.shape != (T, plan.top_k) or not bool(((chosen >= 0) & (chosen < E)).all()):
        return float("inf")
    clear = margin(want.scores, inputs["bias"], plan) > NEAR
    same = (ordered == want.chosen.sort(-1).values).all(-1)
    if bool((clear & ~same).any()) or not bool((ordered.diff(dim=-1) > 0).all()):
        return float("inf")
    due = want.scores.gather(1, chosen)
    if plan.normalise:
        due = due / (due.sum(-1, keepdim=True) + route.TINY)
    return max(
        rounding_error(gates, due * plan.scale, torch.float32, ROUNDINGS),
        rounding_error(scores, want.scores, torch.float32, ROUNDINGS),
    )


def margin(scores: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
    """(T): by how much the choice of a token was decided, among the groups and among the experts."""
    choice = scores if bias is None else scores + bias
    gaps = [scores.new_full((len(scores),), float("inf"))]
    if plan.grouped:
        groups = choice.view(len(choice), plan.n_group, -1)
        best = groups.amax(-1) if plan.method == "group_limited_greedy" else groups.topk(2).values.sum(-1)
        worth = best.sort(descending=True).values
        gaps.append(worth[:, plan.topk_group - 1] - worth[:, plan.topk_group])
        choice = route.close_groups(choice, plan)
    if plan.top_k < choice.shape[1]:
        best = choice.topk(plan.top_k + 1).values
        gaps.append(best[:, -2] - best[:, -1])
    return torch.stack(gaps).amin(0)


def compiled(inputs: Inputs) -> Callable[[], Any]:
    """torch.compile of the fast form."""
    function = torch.compile(route.route, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: function(**inputs)


TRIALS = {
    "route": Trial(
        op="route",
        calling="f(logits, bias, plan): logits (T, E) float32, bias (E) float32, plan a v3bench.kernels.route.Plan "
        "(8 groups, 4 open) -> gates (T, K) float32, chosen (T, K) int64 in any order, scores (T, E) float32",
        inputs=inputs,
        ours=route_fused.route,
        oracle=oracle,
        error=error,
        rivals={"compiled": Rival(compiled, "torch.compile of sigmoid, top-k and gather", error)},
        small=({"T": 5, "E": 256, "K": 8}, {"T": 3, "E": 160, "K": 6}, {"T": 1, "E": 16, "K": 1}),
        small_config={"ROWS": 2, "num_warps": 1},
        precision="float32",
    ),
}
