"""Routing in one kernel: scores, bias, groups, top-k and gates of a token without leaving a warp (see route.py).

    reference                  route.reference, the definition
    kernel, kernel_backward    Triton
    route                      launcher, with route.py's signature; differentiable in the logits

Scores are compared as integers that are ordered like the floats, so that a maximum is one instruction for a warp, and
the lowest expert wins a tie: the choice is the same at every run. A closed expert lies below any number, also below a
negative biased score. The experts come in the order of their scores; a row with NaN still gets K different experts.

T tokens  E routed experts  K experts per token  G groups, here padded to GROUPS of WIDTH, powers of two
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from v3bench.kernels import checks, tables
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.route import Plan, Routing
from v3bench.kernels.route import reference as reference
from v3bench.kernels.sigmoid import sigmoid

NEEDS = checks.Needs((8, 0), "the least that Triton compiles for")
MOST_EXPERTS, MOST_CHOSEN = 512, 32  # of a row that a warp's registers hold
TINY = tl.constexpr(1e-20)  # route.TINY
LOWEST = tl.constexpr(-(2**31))
BACKWARD: Config = {"ROWS": 4, "num_warps": 4}  # one row a warp makes Triton pass 512 words through shared memory


@triton.jit
def places(E: tl.constexpr, G: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """The expert at each of GROUPS x WIDTH places, and whether there is one."""
    place = tl.arange(0, GROUPS * WIDTH)
    if E == GROUPS * WIDTH:
        return place, place < E
    else:
        group, own = place // WIDTH, place % WIDTH
        return group * (E // G) + own, (group < G) & (own < E // G)


@triton.jit
def open_groups(  # type: ignore[no-untyped-def]
    biased, TOP: tl.constexpr, BEST_TWO: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr
):
    """biased (ROWS, GROUPS WIDTH) -> whether each place's group is one of the TOP best, the lower of two equal ones."""
    ROWS: tl.constexpr = biased.shape[0]
    own = tl.reshape(biased, (ROWS, GROUPS, WIDTH))
    best = tl.max(own, 2)
    worth = best
    if BEST_TWO:
        below = own < best[:, :, None]
        second = tl.max(tl.where(below, own, float("-inf")), 2)
        worth = best + tl.where(tl.sum((~below).to(tl.int32), 2) > 1, best, second)
    group = tl.arange(0, GROUPS)
    other, this = worth[:, None, :], worth[:, :, None]
    ahead = (other > this) | ((other == this) & (group[None, None, :] < group[None, :, None]))
    chosen = tl.sum(ahead.to(tl.int32), 2) < TOP
    return tl.reshape(tl.broadcast_to(chosen[:, :, None], (ROWS, GROUPS, WIDTH)), (ROWS, GROUPS * WIDTH))


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    logits_ptr, bias_ptr, gates_ptr, chosen_ptr, scores_ptr, T, logits_row, scale,
    E: tl.constexpr, G: tl.constexpr, TOP: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
    PLACES: tl.constexpr, SIGMOID: tl.constexpr, BEST_TWO: tl.constexpr, NORMALISE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program: ROWS tokens."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    expert, there = places(E, G, GROUPS, WIDTH)
    inside = (rows < T)[:, None] & there[None, :]
    logits = tl.load(logits_ptr + rows[:, None] * logits_row + expert[None, :], mask=inside, other=0.0)
    logits = tl.where(there[None, :], logits, float("-inf"))
    largest, total = tl.zeros((ROWS,), tl.float32), tl.full((ROWS,), 1.0, tl.float32)
    if SIGMOID:
        scores = sigmoid(logits)
    else:
        largest = tl.max(logits, 1)
        scores = tl.exp(logits - largest[:, None])
        total = tl.sum(scores, 1)
        scores = scores / total[:, None]
    tl.store(scores_ptr + rows[:, None] * E + expert[None, :], scores, mask=inside)
    biased = scores
    if bias_ptr is not None:
        biased += tl.load(bias_ptr + expert, mask=there, other=0.0)[None, :]
    biased = tl.where(there[None, :], biased, float("-inf"))
    eligible = tl.broadcast_to(there[None, :], (ROWS, GROUPS * WIDTH))
    if TOP < G:
        eligible = eligible & open_groups(biased, TOP, BEST_TWO, GROUPS, WIDTH)
    bits = biased.to(tl.int32, bitcast=True)
    key = tl.where(eligible, tl.maximum(bits ^ ((bits >> 31) & 0x7FFFFFFF), LOWEST + 1), LOWEST)
    place = tl.arange(0, PLACES)
    chosen = tl.zeros((ROWS, PLACES), tl.int32)
    for k in tl.static_range(K):
        first = tl.min(tl.where(key == tl.max(key, 1)[:, None], expert[None, :], E - 1), 1)
        key = tl.where(expert[None, :] == first[:, None], LOWEST, key)
        chosen = tl.where(place[None, :] == k, first[:, None], chosen)
    # The chosen scores once more from their logits, which lie in the cache: cheaper than K searches of the registers.
    wanted = (rows < T)[:, None] & (place < K)[None, :]
    raw = tl.load(logits_ptr + rows[:, None] * logits_row + chosen, mask=wanted, other=float("-inf"))
    gates = sigmoid(raw) if SIGMOID else tl.exp(raw - largest[:, None]) / total[:, None]
    if NORMALISE:
        gates = gates / (tl.sum(tl.where((place < K)[None, :], gates, 0.0), 1)[:, None] + TINY)
    at = rows[:, None] * K + place[None, :]
    tl.store(gates_ptr + at, gates * scale, mask=wanted)
    tl.store(chosen_ptr + at, chosen.to(tl.int64), mask=wanted)


@triton.jit
def kernel_backward(  # type: ignore[no-untyped-def]
    dgates_ptr, dscores_ptr, chosen_ptr, scores_ptr, dlogits_ptr, T, scale,
    E: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr, PLACES: tl.constexpr, SIGMOID: tl.constexpr,
    NORMALISE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program: the logits' gradient of ROWS tokens, from that of the gates, the scores, or both."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    expert, place = tl.arange(0, WIDTH), tl.arange(0, PLACES)
    inside = (rows < T)[:, None] & (expert < E)[None, :]
    at = rows[:, None] * E + expert[None, :]
    scores = tl.load(scores_ptr + at, mask=inside, other=0.0)
    ds = tl.zeros((ROWS, WIDTH), tl.float32)
    if dscores_ptr is not None:
        ds += tl.load(dscores_ptr + at, mask=inside, other=0.0)
    if dgates_ptr is not None:
        total, along = tl.full((ROWS,), 1.0, tl.float32), tl.zeros((ROWS,), tl.float32)
        if NORMALISE:
            wanted = (rows < T)[:, None] & (place < K)[None, :]
            picks = rows[:, None] * K + place[None, :]
            raw = tl.load(chosen_ptr + picks, mask=wanted, other=0)
            raw = tl.load(scores_ptr + rows[:, None] * E + raw, mask=wanted, other=0.0)
            total = tl.sum(raw, 1) + TINY
            along = tl.sum(raw * tl.load(dgates_ptr + picks, mask=wanted, other=0.0), 1) / total
        for k in tl.static_range(K):
            pick = tl.load(chosen_ptr + rows * K + k, mask=rows < T, other=0).to(tl.int32)
            own = (tl.load(dgates_ptr + rows * K + k, mask=rows < T, other=0.0) - along) / total * scale
            ds += tl.where(expert[None, :] == pick[:, None], own[:, None], 0.0)
    dlogits = ds * scores * (1.0 - scores) if SIGMOID else scores * (ds - tl.sum(ds * scores, 1)[:, None])
    tl.store(dlogits_ptr + at, dlogits, mask=inside)


def launches_route(
    logits: Tensor, bias: Tensor | None, plan: Plan, made: Routing, *, config: Config
) -> tuple[Launch, ...]:
    """As the launcher's arguments and result."""
    (T, E), (blocks, options) = logits.shape, split(config)
    G = plan.n_group if plan.grouped else 1
    args = {
        "logits_ptr": logits, "bias_ptr": bias, "gates_ptr": made.gates, "chosen_ptr": made.chosen,
        "scores_ptr": made.scores, "T": T, "logits_row": logits.stride(0), "scale": float(plan.scale),
        "E": E, "G": G, "TOP": plan.topk_group if plan.grouped else 1, "K": plan.top_k,
        "GROUPS": triton.next_power_of_2(G), "WIDTH": triton.next_power_of_2(E // G),
        "PLACES": triton.next_power_of_2(plan.top_k), "SIGMOID": plan.scoring == "sigmoid",
        "BEST_TWO": plan.method == "noaux_tc", "NORMALISE": plan.normalise, **blocks,
    }  # fmt: skip
    return (Launch(kernel, (cdiv(T, blocks["ROWS"]),), args, options),)


def route(logits: Tensor, bias: Tensor | None, plan: Plan, *, config: Config | None = None) -> Routing:
    """logits (T, E) float32, bias (E) float32 or None -> Routing, as ``reference``; ties go to the lowest expert.

    Raises ValueError.
    """
    check(logits, bias, plan)
    T, E = logits.shape
    config = config or tables.choose("route", logits.device, T=T, E=E, K=plan.top_k)
    if torch.is_grad_enabled() and logits.requires_grad:
        return Routing(*Route.apply(logits, bias, plan, config))
    return routed(logits, bias, plan, config)


def routed(logits: Tensor, bias: Tensor | None, plan: Plan, config: Config) -> Routing:
    """``route`` of checked arguments, without a gradient."""
    (T, E), where = logits.shape, logits.device
    gates, scores = (torch.empty(T, n, dtype=torch.float32, device=where) for n in (plan.top_k, E))
    made = Routing(gates, torch.empty(T, plan.top_k, dtype=torch.int64, device=where), scores)
    if not logits.is_meta:
        run(launches_route(logits, bias, plan, made, config=config))
    return made


class Route(torch.autograd.Function):
    """The bias moves the selection only, so that it has no gradient here; the choice has none at all."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, bias: Tensor | None, plan: Plan, config: Config) -> Routing:
        made = routed(logits, bias, plan, config)
        ctx.plan = plan
        ctx.save_for_backward(made.chosen, made.scores)
        ctx.mark_non_differentiable(made.chosen)
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dgates: Tensor | None, dchosen: None, dscores: Tensor | None
    ) -> tuple[Tensor | None, None, None, None]:
        chosen, scores = ctx.saved_tensors
        if dgates is None and dscores is None:
            return None, None, None, None
        dgates, dscores = (None if d is None else d.contiguous() for d in (dgates, dscores))
        dlogits = torch.empty_like(scores)
        if not scores.is_meta:
            run(launches_backward(dgates, dscores, chosen, scores, ctx.plan, dlogits, config=BACKWARD))
        return dlogits, None, None, None


def launches_backward(
    dgates: Tensor | None, dscores: Tensor | None, chosen: Tensor, scores: Tensor, plan: Plan, dlogits: Tensor, *,
    config: Config,
) -> tuple[Launch, ...]:  # fmt: skip
    """Gradients of the results, or None; dlogits (T, E) is written."""
    (T, E), (blocks, options) = scores.shape, split(config)
    args = {
        "dgates_ptr": dgates, "dscores_ptr": dscores, "chosen_ptr": chosen, "scores_ptr": scores,
        "dlogits_ptr": dlogits, "T": T, "scale": float(plan.scale), "E": E, "K": plan.top_k,
        "WIDTH": triton.next_power_of_2(E), "PLACES": triton.next_power_of_2(plan.top_k),
        "SIGMOID": plan.scoring == "sigmoid", "NORMALISE": plan.normalise, **blocks,
    }  # fmt: skip
    return (Launch(kernel_backward, (cdiv(T, blocks["ROWS"]),), args, options),)


def check(logits: Tensor, bias: Tensor | None, plan: Plan) -> None:
    """What the launcher asks of its arguments. Raises ValueError."""
    checks.tensor("route", "logits", logits, torch.float32, (None, None), aligned=False)
    E = logits.shape[1]
    if bias is not None:
        checks.tensor("route", "bias", bias, torch.float32, (E,), aligned=False)
    checks.device("route", NEEDS, logits, *([] if bias is None else [bias]))
    if not 1 <= E <= MOST_EXPERTS:
        raise ValueError(f"route: logits has {E} experts, expected 1 to {MOST_EXPERTS}")
    if plan.scoring not in ("sigmoid", "softmax") or plan.method not in ("noaux_tc", "group_limited_greedy", "greedy"):
        raise ValueError(f"route: plan has scoring {plan.scoring!r} and method {plan.method!r}, which it does not know")
    G, open_to = (plan.n_group, plan.topk_group) if plan.grouped else (1, 1)
    if E % G or open_to < 1 or (plan.method == "noaux_tc" and G > 1 and E // G < 2):
        raise ValueError(f"route: plan opens {open_to} of {G} groups of {E} experts; groups of one size are needed")
    if not 1 <= plan.top_k <= min(open_to * (E // G), MOST_CHOSEN):
        most = min(open_to * (E // G), MOST_CHOSEN)
        raise ValueError(f"route: plan has top_k {plan.top_k}, expected 1 to {most} of the experts it opens")


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches at a table's shape on the meta device, for compilation ahead of time: 8 groups, of which 4 are open."""
    T, E, K = shape["T"], shape["E"], shape["K"]

    def empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    plan = Plan(top_k=K, n_group=8, topk_group=4, scale=2.5)
    made = Routing(empty(T, K), empty(T, K, dtype=torch.int64), empty(T, E))
    return launches_route(empty(T, E), empty(E), plan, made, config=config)


# A warp takes one token (a maximum over it is one instruction), or several whose chains of maxima overlap.
CANDIDATES = {"route": [{"ROWS": rows, "num_warps": warps} for rows, warps in ((1, 1), (2, 1), (4, 1), (2, 2), (4, 4))]}
TABLE_SHAPES = {"route": [{"T": T, "E": 256, "K": 8} for T in (1, 64, 1024, 8192, 16384)]}
