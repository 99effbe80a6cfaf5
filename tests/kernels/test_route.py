"""Routing: the launcher is the definition; the definition is the papers' formulas; invariants hold for both.

transformers ignores norm_topk_prob in V2 and every scoring and selection method but its own in V3, so these are
checked here against independent formulas in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from v3bench.kernels.route import Plan, Routing, reference, route

T, E, G, K = 40, 24, 6, 5
PLANS = [
    Plan(top_k=K, scoring=s, method=m, n_group=G, topk_group=3, normalise=n, scale=c)
    for s, m, n, c in itertools.product(
        ("sigmoid", "softmax"), ("noaux_tc", "group_limited_greedy", "greedy"), (True, False), (1.0, 2.5)
    )
]
NAMES = [f"{p.scoring}-{p.method}-{'normalised' if p.normalise else 'raw'}-{p.scale}" for p in PLANS]
Op = Callable[[Tensor, Tensor | None, Plan], Routing]


def draw(plan: Plan, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(T, E, dtype=torch.float64, generator=generator)
    bias = torch.randn(E, dtype=torch.float64, generator=generator) * 0.3 if plan.method == "noaux_tc" else None
    return logits, bias


def dense(routing: Routing) -> Tensor:
    """Gates (T, E), zero where an expert was not chosen."""
    return torch.zeros_like(routing.scores).scatter(1, routing.chosen, routing.gates)


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_launcher_equals_the_definition(plan: Plan) -> None:
    logits, bias = draw(plan)
    got, want = route(logits, bias, plan), reference(logits, bias, plan)
    torch.testing.assert_close(dense(got), dense(want))
    torch.testing.assert_close(got.scores, want.scores)


@pytest.mark.parametrize("op", [route, reference])
@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_equals_the_papers_formulas(op: Op, plan: Plan) -> None:
    """One token at a time with Python's own sort: eq. 13-16 of V3, section 2.2.2 of V2."""
    logits, bias = draw(plan, seed=1)
    gates = dense(op(logits, bias, plan))
    for t in range(T):
        z = logits[t].exp()
        s = (z / (1 + z) if plan.scoring == "sigmoid" else z / z.sum()).tolist()
        c = [si + (float(bias[i]) if bias is not None else 0.0) for i, si in enumerate(s)]
        width = E // G
        groups = [list(range(g * width, (g + 1) * width)) for g in range(G)]
        if plan.method != "greedy":
            best = 2 if plan.method == "noaux_tc" else 1
            worth = [sum(sorted((c[i] for i in group), reverse=True)[:best]) for group in groups]
            order = sorted(range(G), key=lambda g: -worth[g])
            groups = [groups[g] for g in order[: plan.topk_group]]
        eligible = [i for group in groups for i in group]
        chosen = sorted(eligible, key=lambda i: -c[i])[:K]
        total = sum(s[i] for i in chosen) if plan.normalise else 1.0
        want = torch.zeros(E, dtype=torch.float64)
        for i in chosen:
            want[i] = plan.scale * s[i] / total
        torch.testing.assert_close(gates[t], want)


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_every_token_gets_k_experts_of_at_most_topk_group_groups(plan: Plan) -> None:
    logits, bias = draw(plan, seed=2)
    index = route(logits, bias, plan).chosen
    assert all(len(set(row)) == K for row in index.tolist())
    loads = torch.bincount(index.flatten(), minlength=E)
    assert loads.sum() == T * K
    touched = [len({i // (E // G) for i in row}) for row in index.tolist()]
    if plan.method == "greedy":
        assert max(touched) > plan.topk_group
    else:
        assert max(touched) <= plan.topk_group


@pytest.mark.parametrize("op", [route, reference])
def test_a_closed_group_stays_closed_when_the_bias_makes_all_scores_negative(op: Op) -> None:
    plan = Plan(top_k=K, n_group=G, topk_group=2)
    logits, _ = draw(plan)
    low = torch.full((E,), -5.0, dtype=torch.float64)
    assert torch.equal(dense(op(logits, low, plan)), dense(op(logits, torch.zeros_like(low), plan)))


def test_bias_moves_selection_but_not_gates() -> None:
    plan = Plan(top_k=3, normalise=False)
    logits = torch.linspace(-1, 1, E, dtype=torch.float64).expand(T, E)
    bias = torch.zeros(E, dtype=torch.float64)
    bias[0] = 10.0
    without, with_bias = route(logits, torch.zeros_like(bias), plan), route(logits, bias, plan)
    assert not (without.chosen == 0).any()
    assert (with_bias.chosen == 0).any(1).all()
    torch.testing.assert_close(with_bias.gates, with_bias.scores.gather(1, with_bias.chosen))
    torch.testing.assert_close(with_bias.scores, logits.sigmoid())


def test_normalised_gates_sum_to_the_scale() -> None:
    plan = Plan(top_k=K, normalise=True, scale=2.5)
    gates = route(*draw(PLANS[0]), plan).gates
    torch.testing.assert_close(gates.sum(1), torch.full((T,), 2.5, dtype=torch.float64))


def test_gates_stay_finite_when_all_scores_underflow() -> None:
    gates = route(torch.full((2, E), -1e4), torch.zeros(E), Plan(top_k=K)).gates
    assert torch.equal(gates, torch.zeros(2, K))


def test_gradient_reaches_the_logits_through_the_gates_only() -> None:
    logits, bias = draw(PLANS[0])
    bias = torch.zeros(E, dtype=torch.float64) if bias is None else bias
    routing = route(logits.requires_grad_(), bias.requires_grad_(), PLANS[0])
    routing.gates.square().sum().backward()
    assert bias.grad is None
    assert logits.grad is not None
    chosen = torch.zeros(T, E).scatter(1, routing.chosen, 1.0).bool()
    assert (logits.grad[chosen] != 0).all()
    assert (logits.grad[~chosen] == 0).all()
