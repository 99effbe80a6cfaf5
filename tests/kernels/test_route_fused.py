"""Fused routing: the definition's choice and gates for every plan, ties to the lowest expert, autograd's gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from v3bench.kernels import route, route_fused
from v3bench.kernels.route import Plan, Routing
from v3bench.suite.trials.check import check, poisoned, seeded
from v3bench.suite.trials.registry import load
from v3bench.suite.trials.route import error, oracle

CONFIG = {"ROWS": 2, "num_warps": 1}
V3 = Plan(top_k=8, n_group=8, topk_group=4, scale=2.5)
V2 = Plan(
    top_k=6, n_group=8, topk_group=3, method="group_limited_greedy", scoring="softmax", normalise=False, scale=16.0
)
PLANS = {
    "v3": (64, V3),
    "v2": (40, V2),
    "greedy": (24, Plan(top_k=6, method="greedy", scoring="softmax")),
    "one group": (12, Plan(top_k=3)),
    "all groups open": (12, Plan(top_k=12, n_group=3, topk_group=3)),
    "three groups": (21, replace(V3, top_k=5, n_group=3, topk_group=2, normalise=False)),
    "one expert": (1, Plan(top_k=1)),
}


@pytest.mark.parametrize("shape", load("route").small, ids=str)
def test_equals_the_oracle(shape: dict[str, int]) -> None:
    trial = load("route")
    assert check(trial, seeded(trial, shape, "cpu"), lambda **given: trial.ours(**given, config=CONFIG)) <= 1


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_every_plan_chooses_as_the_definition(name: str, biased: bool) -> None:
    E, plan = PLANS[name]
    logits, bias = torch.randn(7, E), torch.randn(E) - 1 if biased else None  # most biased scores are negative
    with poisoned():
        got = route_fused.route(logits, bias, plan, config=CONFIG)
    want = route.reference(logits.double(), None if bias is None else bias.double(), plan)
    assert error(got, want, {"bias": bias, "plan": plan}) <= 1
    assert torch.equal(got.chosen.sort(-1).values, want.chosen.sort(-1).values)
    assert got.chosen.dtype == torch.int64


def test_the_error_sees_a_wrong_choice_a_wrong_gate_and_an_expert_taken_twice() -> None:
    logits, bias = torch.randn(4, 64), torch.zeros(64)
    given = {"logits": logits, "bias": bias, "plan": V3}
    want = oracle(**given)
    good = Routing(want.gates.float(), want.chosen, want.scores.float())
    assert error(good, want, given) <= 1
    other = want.chosen.clone()
    other[1, 0] = next(e for e in range(64) if e not in want.chosen[1].tolist())
    assert error(good._replace(chosen=other), want, given) == float("inf")
    twice = want.chosen.clone()
    twice[1, 0] = twice[1, 1]
    assert error(good._replace(chosen=twice), want, given) == float("inf")
    assert error(good._replace(gates=good.gates * 1.00001), want, given) > 1


def test_ties_go_to_the_lowest_expert_and_the_lowest_group() -> None:
    got = route_fused.route(torch.zeros(3, 64), torch.full((64,), -2.0), V3, config=CONFIG)
    assert got.chosen.tolist() == [list(range(8))] * 3
    logits = torch.full((1, 64), -1.0)
    logits[0, [63, 9, 17, 33]] = 1.0  # groups 1, 2, 4, 7 have one good expert each, all others are the same
    got = route_fused.route(logits, None, V3, config=CONFIG)
    assert got.chosen.tolist() == [[9, 17, 33, 63, 8, 10, 11, 12]]


def test_a_group_counts_twice_what_it_has_twice() -> None:
    """Two equal best experts are a group's two best, not one."""
    logits = torch.full((1, 8), -3.0)
    logits[0, 0] = 1.0  # group 0: one good
    logits[0, 4:6] = 0.9  # group 1: two
    plan = Plan(top_k=2, n_group=2, topk_group=1)
    assert route_fused.route(logits, None, plan, config=CONFIG).chosen.tolist() == [[4, 5]]


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # numpy's, under the interpreter
def test_a_row_with_nan_spoils_itself_only_and_still_names_experts() -> None:
    logits, bias = torch.randn(6, 64), torch.randn(64)
    clean = route_fused.route(logits, bias, V3, config=CONFIG)
    bad = logits.clone()
    bad[1, 3], bad[2, 5], bad[3], bad[4] = float("nan"), -float("nan"), float("nan"), -float("inf")
    got = route_fused.route(bad, bias, V3, config=CONFIG)
    assert all(torch.equal(a[[0, 5]], b[[0, 5]]) for a, b in zip(got, clean, strict=True))
    assert ((got.chosen >= 0) & (got.chosen < 64)).all()
    assert (got.chosen.sort(-1).values.diff(dim=-1) > 0).all()
    assert got.gates[3].isnan().all()
    assert (got.gates[4] == 0).all()  # sigmoid(-inf) is 0, as in the definition


@pytest.mark.parametrize("which", ["gates", "scores", "both"])
@pytest.mark.parametrize("name", ["v3", "v2", "greedy", "three groups"])
def test_the_gradient_is_autograds(name: str, which: str) -> None:
    E, plan = PLANS[name]
    logits, bias = torch.randn(5, E, requires_grad=True), torch.randn(E)
    to_gates, to_scores = torch.randn(5, plan.top_k), torch.randn(5, E)

    def loss(gates: torch.Tensor, chosen: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        by_expert = torch.zeros_like(scores, dtype=gates.dtype).scatter(1, chosen, gates)  # whatever the order
        parts = {"gates": (by_expert * by_expert).sum() + (by_expert * to_scores).sum()}
        parts["scores"] = (scores * to_scores.flip(0)).sum()
        return parts["gates"] + parts["scores"] if which == "both" else parts[which]

    assert to_gates.shape == (5, plan.top_k)
    (want,) = torch.autograd.grad(loss(*route.reference(logits, bias, plan)), logits)
    with poisoned():
        made = route_fused.route(logits, bias, plan, config=CONFIG)
        (got,) = torch.autograd.grad(loss(*made), logits)
    assert not made.chosen.requires_grad
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))  # float32, other order


def test_empty_and_meta_tensors_give_shapes_without_work() -> None:
    for logits in (torch.empty(0, 256), torch.empty(4096, 256, device="meta")):
        gates, chosen, scores = route_fused.route(logits, None, V3, config=CONFIG)
        assert gates.shape == chosen.shape == (len(logits), 8)
        assert scores.shape == logits.shape


LOGITS = torch.zeros(2, 64)


@pytest.mark.parametrize(
    ("logits", "bias", "plan", "message"),
    [
        (LOGITS.double(), None, V3, "route: logits is float64, expected float32"),
        (LOGITS[0], None, V3, r"route: logits has shape \(64,\), expected \(any, any\)"),
        (torch.zeros(64, 64).T[:, ::2], None, V3, "the last dimension must be dense"),
        (LOGITS, torch.zeros(63), V3, r"route: bias has shape \(63,\), expected \(64\)"),
        (torch.zeros(2, 1024), None, V3, "route: logits has 1024 experts, expected 1 to 512"),
        (torch.zeros(2, 0), None, V3, "route: logits has 0 experts"),
        (LOGITS, None, replace(V3, scoring="tanh"), "scoring 'tanh'"),
        (LOGITS, None, replace(V3, method="best"), "method 'best'"),
        (torch.zeros(2, 60), None, V3, "opens 4 of 8 groups of 60 experts"),
        (torch.zeros(2, 8), None, V3, "opens 4 of 8 groups of 8 experts"),
        (LOGITS, None, replace(V3, top_k=33), "top_k 33, expected 1 to 32"),
        (torch.zeros(2, 16), None, replace(V3, top_k=9), "top_k 9, expected 1 to 8 of the experts it opens"),
    ],
)
def test_bad_input_is_one_clear_error(
    logits: torch.Tensor, bias: torch.Tensor | None, plan: Plan, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        route_fused.route(logits, bias, plan, config=CONFIG)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("T", [1, 3, 64, 1024, 8192, 16384])
def test_full_shapes_on_a_gpu(T: int) -> None:
    trial = load("route")
    assert check(trial, seeded(trial, {"T": T, "E": 256, "K": 8}, "cuda"), trial.ours) <= 1
