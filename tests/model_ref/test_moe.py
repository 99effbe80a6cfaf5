"""DeepSeekMoE: shared and routed experts, how each architecture scales its gates, and the two ways to balance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from v3bench.kernels.ops import REFERENCE, TORCH, Ops
from v3bench.kernels.route import Plan, Routing, route
from v3bench.model_ref.moe import FFN, MoE, balance_loss, expert_loads, plan_of, update_bias

from .tiny import config


def moe_of(ops: Ops = TORCH, **changes: object) -> MoE:
    moe = MoE(config(**changes), ops, dtype=torch.float64)
    with torch.no_grad():
        for i, tensor in enumerate(moe.state_dict().values()):
            tensor.normal_(std=0.3, generator=torch.Generator().manual_seed(i))
    return moe


def silu_ffn(x: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    gate, up = (w_gate_up @ x).chunk(2)
    return w_down @ (gate / (1 + torch.exp(-gate)) * up)


@pytest.mark.parametrize("ops", [TORCH, REFERENCE], ids=lambda ops: ops.name)
@pytest.mark.parametrize("shared", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2, 5), (1, 1)])
def test_output_is_the_sum_of_shared_and_gated_experts(ops: Ops, shared: int, shape: tuple[int, int]) -> None:
    moe = moe_of(ops, n_shared_experts=shared)
    x = torch.randn(*shape, 48, dtype=torch.float64)
    routings: list[Routing] = []
    got = moe(x, routings)
    (routing,) = routings
    for t, token in enumerate(x.flatten(0, 1)):
        want = torch.zeros(48, dtype=torch.float64)
        if moe.shared is not None:
            want += silu_ffn(token, moe.shared.w_gate_up, moe.shared.w_down)
        for gate, e in zip(routing.gates[t], routing.chosen[t], strict=True):
            want += gate * silu_ffn(token, moe.experts.w_gate_up[e], moe.experts.w_down[e])
        torch.testing.assert_close(got.flatten(0, 1)[t], want)


def test_several_shared_experts_are_one_wider_network() -> None:
    moe = moe_of(n_shared_experts=2)
    assert moe.shared is not None
    assert moe.shared.w_gate_up.shape == (2 * 2 * 28, 48)


def test_gate_works_in_float32_for_a_bfloat16_model() -> None:
    moe = MoE(config(), TORCH, dtype=torch.bfloat16)
    assert moe.gate.e_score_correction_bias is not None
    assert moe.gate.e_score_correction_bias.dtype == torch.float32
    with torch.no_grad():
        moe.gate.weight.normal_()
    tokens = torch.randn(3, 48).bfloat16()
    scores = moe.gate(tokens).scores
    torch.testing.assert_close(scores, (tokens.float() @ moe.gate.weight.float().T).sigmoid())


def test_bias_exists_only_where_the_method_has_one() -> None:
    names = {m: "gate.e_score_correction_bias" in MoE(config(topk_method=m), TORCH, device="meta").state_dict()
             for m in ("noaux_tc", "group_limited_greedy", "greedy")}  # fmt: skip
    assert names == {"noaux_tc": True, "group_limited_greedy": False, "greedy": False}


@pytest.mark.parametrize(("model_type", "normalise", "top_k", "want"), [
    ("deepseek_v3", True, 4, (True, 1.7)),
    ("deepseek_v3", False, 4, (False, 1.7)),
    ("deepseek_v3", True, 1, (True, 1.7)),
    ("kimi_k2", True, 4, (True, 1.7)),
    ("deepseek_v2", False, 4, (False, 1.7)),
    ("deepseek_v2", True, 4, (True, 1.0)),
    ("deepseek_v2", True, 1, (False, 1.7)),
])  # fmt: skip
def test_v2_normalises_or_scales_and_v3_does_both(
    model_type: str, normalise: bool, top_k: int, want: tuple[bool, float]
) -> None:
    """transformers ignores norm_topk_prob in V2: the rule of V2's released code, checked on gates in float64."""
    changes = {"topk_method": "greedy", "scoring_func": "softmax", "num_experts_per_tok": top_k}
    plan = plan_of(config(model_type=model_type, norm_topk_prob=normalise, **changes))
    assert (plan.normalise, plan.scale) == want
    logits = torch.randn(6, 16, dtype=torch.float64)
    top = (logits.exp() / logits.exp().sum(1, keepdim=True)).topk(top_k).values
    gates = route(logits, None, plan).gates.sort(descending=True).values
    torch.testing.assert_close(gates, top / (top.sum(1, keepdim=True) if want[0] else 1.0) * want[1])


def test_dense_network_equals_its_formula() -> None:
    ffn = FFN(8, 6, TORCH, dtype=torch.float64)
    with torch.no_grad():
        ffn.w_gate_up.normal_()
        ffn.w_down.normal_()
    x = torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(ffn(x), torch.stack([silu_ffn(row, ffn.w_gate_up, ffn.w_down) for row in x]))


def test_loads_count_every_choice() -> None:
    index = torch.tensor([[0, 3], [3, 1], [3, 0]])
    assert expert_loads(index, 5).tolist() == [2, 1, 0, 3, 0]


def test_bias_falls_for_overloaded_experts_and_rises_for_underloaded_ones() -> None:
    bias = torch.tensor([0.5, 0.5, 0.5, 0.5])
    update_bias(bias, torch.tensor([10, 4, 1, 5]), 0.25)
    assert bias.tolist() == [0.25, 0.75, 0.75, 0.5]


def test_bias_updates_even_out_the_loads() -> None:
    torch.manual_seed(3)
    plan, bias = Plan(top_k=2), torch.zeros(8)
    logits = torch.randn(400, 8) + torch.linspace(-1.5, 1.5, 8)

    def violation() -> float:
        loads = expert_loads(route(logits, bias, plan).chosen, 8).double()
        return float(loads.max() / loads.mean() - 1)

    before = violation()
    for _ in range(300):
        update_bias(bias, expert_loads(route(logits, bias, plan).chosen, 8), 0.005)
    assert before > 1.0
    assert violation() < 0.1


def balance_by_hand(scores: Tensor, chosen: list[list[int]], top_k: int) -> float:
    """Eq. 17-20 for one sequence, scores (S, E), without alpha."""
    S, E = scores.shape
    total = 0.0
    for i in range(E):
        f = E / (top_k * S) * sum(i in row for row in chosen)
        P = sum((scores[t, i] / scores[t].sum()).item() for t in range(S)) / S
        total += f * P
    return total


@pytest.mark.parametrize("method", ["noaux_tc", "group_limited_greedy"])
@pytest.mark.parametrize("per_sequence", [True, False])
def test_balance_loss_equals_its_formula(method: str, per_sequence: bool) -> None:
    plan = Plan(top_k=3, method=method, n_group=4, topk_group=1, scoring="sigmoid")
    bias = torch.randn(16, dtype=torch.float64) if method == "noaux_tc" else None
    routing = route(torch.randn(10, 16, dtype=torch.float64), bias, plan)
    # V3 counts the top K of the plain affinities (eq. 18), V2 what was chosen.
    counted = routing.scores.topk(3).indices if method == "noaux_tc" else routing.chosen
    assert not torch.equal(routing.chosen.sort(1).values, routing.scores.topk(3).indices.sort(1).values)
    rows = counted.tolist()
    parts = [slice(0, 5), slice(5, 10)] if per_sequence else [slice(0, 10)]
    want = sum(balance_by_hand(routing.scores[part], rows[part], 3) for part in parts) / len(parts)
    got = balance_loss(routing, plan, 2, per_sequence=per_sequence)
    assert float(got) == pytest.approx(want, rel=1e-12)


def test_balance_loss_is_one_when_all_is_even_and_pulls_towards_it() -> None:
    plan = Plan(top_k=1, method="greedy", scoring="softmax")
    even = Routing(torch.ones(4, 1), torch.arange(4)[:, None], torch.full((4, 4), 0.25))
    assert float(balance_loss(even, plan, 1)) == pytest.approx(1.0)
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0]]).repeat(8, 1).requires_grad_()
    loss = balance_loss(route(logits, None, plan), plan, 1)
    assert loss.item() > 1.5
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all()
