"""DeepSeekMoE (V3 report, section 2.1.2, eq. 12-20) and the dense feed-forward network of the first layers.

T tokens  D hidden_size  F moe_intermediate_size  E n_routed_experts  K num_experts_per_tok
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from v3bench.kernels.ops import Ops
from v3bench.kernels.route import Plan, Routing
from v3bench.model_ref.config import Config
from v3bench.model_ref.norm import RMSNorm


class MoE(nn.Module):
    """x (B, S, D) -> (B, S, D): shared experts for every token, routed experts for whom the gate chose them."""

    def __init__(
        self, config: Config, ops: Ops, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        D, F_ = config.hidden_size, config.moe_intermediate_size
        self.gate = Gate(config, ops, device=device, dtype=dtype)
        self.experts = Experts(config, ops, device=device, dtype=dtype)
        shared = config.n_shared_experts * F_  # several shared experts are one wider network
        self.shared = FFN(D, shared, ops, device=device, dtype=dtype) if shared else None

    def forward(self, x: Tensor, routings: list[Routing] | None = None, norm: RMSNorm | None = None) -> Tensor:
        """``routings``, if given, collects what this layer decided; ``norm``, if given, comes before."""
        x = x if norm is None else norm(x)  # once for the gate, which reads it as it is, and for every expert
        tokens = x.flatten(0, -2)  # (T, D)
        routing = self.gate(tokens)
        if routings is not None:
            routings.append(routing)
        y: Tensor = self.experts(tokens, routing)
        if self.shared is not None:
            y = y + self.shared(tokens)  # eq. 12, without its residual
        return y.view_as(x)


class Gate(nn.Module):
    """tokens (T, D) -> Routing, in at least float32."""

    e_score_correction_bias: Tensor | None

    def __init__(
        self, config: Config, ops: Ops, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        E = config.n_routed_experts
        self.weight = nn.Parameter(torch.empty(E, config.hidden_size, device=device, dtype=dtype))
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        bias = torch.zeros(E, device=device, dtype=wide) if config.has_correction_bias else None
        self.register_buffer("e_score_correction_bias", bias)
        self.route, self.plan = ops.route, plan_of(config)

    def forward(self, tokens: Tensor) -> Routing:
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        logits = F.linear(tokens.to(wide), self.weight.to(wide))  # (T, E)  eq. 15
        return self.route(logits, self.e_score_correction_bias, self.plan)


def plan_of(config: Config) -> Plan:
    """How the config routes.

    V3 scales the gates whether they are normalised or not; V2's released code scales them only where it does not
    normalise, and normalises only for more than one expert.
    """
    normalise, scale = config.norm_topk_prob, config.routed_scaling_factor
    if config.model_type == "deepseek_v2":
        normalise = normalise and config.num_experts_per_tok > 1
        scale = 1.0 if normalise else scale
    return Plan(
        top_k=config.num_experts_per_tok,
        scoring=config.scoring_func,
        method=config.topk_method,
        n_group=config.n_group,
        topk_group=config.topk_group,
        normalise=normalise,
        scale=scale,
    )


class Experts(nn.Module):
    """The routed experts' weights, stacked; gate rows before up rows."""

    def __init__(
        self, config: Config, ops: Ops, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        E, D, F_ = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.w_gate_up = nn.Parameter(torch.empty(E, 2 * F_, D, device=device, dtype=dtype))
        self.w_down = nn.Parameter(torch.empty(E, D, F_, device=device, dtype=dtype))
        self.routed = ops.experts

    def forward(self, tokens: Tensor, routing: Routing) -> Tensor:
        """tokens (T, D) -> (T, D), the routed sum of eq. 12."""
        return self.routed(tokens, routing.gates, routing.chosen, self.w_gate_up, self.w_down)


class FFN(nn.Module):
    """A SwiGLU feed-forward network, x (..., D) -> (..., D): dense layers, shared experts, the dense baselines."""

    def __init__(
        self,
        dim: int,
        inner: int,
        ops: Ops,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.w_gate_up = weight(2 * inner, dim)
        self.w_down = weight(dim, inner)
        self.b_gate_up = weight(2 * inner) if bias else None
        self.b_down = weight(dim) if bias else None
        self.ffn = ops.ffn

    def forward(self, x: Tensor, routings: list[Routing] | None = None, norm: RMSNorm | None = None) -> Tensor:
        """``norm``, if given, comes before. A dense network routes nothing: ``routings`` is there so that a block need
        not ask which one it has.
        """
        before = None if norm is None else (norm.weight, norm.eps)
        return self.ffn(x, self.w_gate_up, self.w_down, self.b_gate_up, self.b_down, before)


def expert_loads(index: Tensor, n_experts: int) -> Tensor:
    """index (T, K) -> how many tokens chose each expert, int64 (E)."""
    flat = index.flatten()
    return torch.zeros(n_experts, dtype=torch.int64, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat))


def balance_loss(routing: Routing, plan: Plan, batch: int, *, per_sequence: bool = True) -> Tensor:
    """sum_i f_i P_i, averaged over the sequences (eq. 17-20, without the factor alpha).

    f_i is the load of expert i as a multiple of the mean, P_i its mean share of the affinities. With a selection bias f
    counts the unbiased, ungrouped top K (eq. 18); otherwise what was chosen. ``batch`` rows of equal length lie in the
    routing one after another; V2's ``seq_aux: false`` takes them as one.
    """
    scores, index = routing.scores, routing.chosen
    if plan.method == "noaux_tc":
        index = scores.detach().topk(plan.top_k, dim=-1).indices
    groups = batch if per_sequence else 1
    scores = scores.unflatten(0, (groups, -1))  # (B, S, E)
    chosen = torch.zeros_like(scores).scatter_(2, index.unflatten(0, (groups, -1)), 1.0)
    E = scores.shape[-1]
    f = chosen.mean(1) * (E / plan.top_k)  # (B, E)  eq. 18
    share = (scores / scores.sum(-1, keepdim=True)).mean(1)  # (B, E)  eq. 19, 20
    loss: Tensor = (f * share).sum(-1).mean()  # eq. 17
    return loss


@torch.no_grad()
def update_bias(bias: Tensor, loads: Tensor, speed: float) -> None:
    """Auxiliary-loss-free balancing: overloaded experts lose ``speed`` (the paper's gamma), underloaded ones gain it.

    bias (..., E) is changed in place; loads (..., E) are the tokens each expert got in the last step.
    """
    loads = loads.to(bias.dtype)
    bias += speed * torch.sign(loads.mean(-1, keepdim=True) - loads)
