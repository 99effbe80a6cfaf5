"""What verifying drafts costs by the bytes that a GPU reads: the model behind MTP's speed-up (V3 report 5.4.3).

A step reads, on one GPU of EP GPUs that share each layer's routed experts, every weight that any of its tokens needs,
once, and the cache of each of its requests, once, however many tokens a request has in the step. Assumed: routing is
uniform and balanced; attention and shared experts lie whole on every GPU (data-parallel attention), the head too
unless it is split; a GPU holds ceil(E / EP) experts, redundant ones where places are left over; nothing else is read.
Weights as released: FP8, 1 B, without its scales (0.02 %); router, eh_proj and head in BF16, 2 B; the cache in BF16.

With a ``Ridge`` each part takes the longer of its bytes and its FLOPs, so that large batches stop being free.
Letters: E routed experts, K of them chosen for a token, D hidden_size, L context. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws import flops, kv, params

FP8, BF16 = 1, 2  # B per weight


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where a step runs.

    ep: GPUs that share a layer's routed experts. batch: requests on each GPU. context: cached tokens of each request.
    split_head: whether the head's rows are shared out over those GPUs too.
    """

    ep: int = 1
    batch: int = 1
    context: int = 4096
    split_head: bool = False

    def __post_init__(self) -> None:
        if self.ep < 1 or self.batch < 1 or self.context < 0:
            right = "ep and batch of at least 1, context of at least 0"
            raise BadInput(f"ep={self.ep}, batch={self.batch}, context={self.context}", where="deployment", right=right)


@dataclass(frozen=True)
class Part:
    """One part of a step on one GPU: B read, FLOPs done, and the format its products run in."""

    nbytes: float
    flops: float
    peak: Literal["fp8", "bf16"] = "fp8"


@dataclass(frozen=True)
class Ridge:
    """FLOP per byte at which a GPU turns from memory-bound to compute-bound: peak over bandwidth."""

    fp8: float
    bf16: float


def distinct_experts(tokens: float, experts: int, chosen: int, held: int | None = None) -> float:
    """Mean number of experts that any of ``tokens`` chooses, of all E or of ``held`` of them: held (1 - (1 - K/E)^n).

    Exact for every routing whose tokens are independent and whose experts are alike, node-limited routing among them:
    a token then chooses each expert with chance K/E, and no more is needed for a mean. The limit moves the spread.
    """
    missed: float = (1 - chosen / experts) ** tokens
    return (experts if held is None else held) * (1 - missed)


def experts_held(config: Config, ep: int) -> int:
    """Places for routed experts of one layer on one GPU: ceil(E / EP)."""
    return -(-config.n_routed_experts // ep)


def touched(config: Config, where: Deployment, tokens: int) -> float:
    """Mean number of routed experts of one layer that a GPU reads, with ``tokens`` of each request in the step."""
    everyone = where.ep * where.batch * tokens
    held = experts_held(config, where.ep)
    return distinct_experts(everyone, config.n_routed_experts, config.num_experts_per_tok, held)


def layers(config: Config, where: Deployment, tokens: int, *, dense: int, moe: int) -> dict[str, Part]:
    """So many dense and MoE layers, on one GPU, by part: params.py's words, and "cache" for attention over it."""
    n, both, expert = where.batch * tokens, dense + moe, params.expert(config)
    attention, shared = params.mla(config)["attention"], config.n_shared_experts * expert
    ffn, router = 3 * config.hidden_size * config.intermediate_size, config.n_routed_experts * config.hidden_size
    pairs = n * where.context * flops.absorbed_width(config)
    latent = where.batch * where.context * kv.elements_per_token(config)
    routed = touched(config, where, tokens) * expert
    return {
        "attention": Part(FP8 * both * attention, 2 * n * both * attention),
        "cache": Part(BF16 * both * latent, 2 * both * pairs, "bf16"),
        "dense_ffn": Part(FP8 * dense * ffn, 2 * n * dense * ffn),
        "routed_experts": Part(FP8 * moe * routed, 2 * n * moe * config.num_experts_per_tok * expert),
        "shared_experts": Part(FP8 * moe * shared, 2 * n * moe * shared),
        "router": Part(BF16 * moe * router, 2 * n * moe * router, "bf16"),
    }


def step(config: Config, where: Deployment, tokens: int = 1) -> dict[str, Part]:
    """One step of the main model with ``tokens`` of each request, on one GPU, by part."""
    moe = config.num_moe_layers
    whole = layers(config, where, tokens, dense=config.num_hidden_layers - moe, moe=moe)
    return whole | {"head": head(config, where, tokens)}


def draft(config: Config, where: Deployment, drafts: int = 1) -> dict[str, Part]:
    """The MTP module's share of a step, on one GPU, by part: eh_proj, its layer and its cache, and the shared head.

    Its first pass takes the 1 + ``drafts`` tokens that the step has verified, so that its cache is whole; every
    further draft is one more pass over one token. The layer is a dense one where the whole model is.
    """
    found: dict[str, Part] = {}
    moe = 1 if config.num_moe_layers else 0
    for tokens in (1 + drafts, *[1] * (drafts - 1)):
        n = where.batch * tokens
        passed = layers(config, where, tokens, dense=1 - moe, moe=moe) | {
            "mtp_projection": matrix(2 * config.hidden_size, config.hidden_size, n),
            "head": head(config, where, 1),  # of what is drafted alone
        }
        for name, part in passed.items():
            had = found.get(name, Part(0, 0, part.peak))
            found[name] = Part(had.nbytes + part.nbytes, had.flops + part.flops, part.peak)
    return found


def head(config: Config, where: Deployment, tokens: int) -> Part:
    """The logits of so many tokens of each request; a split head takes every GPU's tokens through its own rows."""
    whole, parts = matrix(config.vocab_size, config.hidden_size, where.batch * tokens), where.ep
    return Part(whole.nbytes / parts, whole.flops, "bf16") if where.split_head else whole


def matrix(rows: int, columns: int, tokens: int) -> Part:
    """A product with one BF16 matrix."""
    return Part(BF16 * rows * columns, 2 * tokens * rows * columns, "bf16")


def cost(parts: Mapping[str, Part], ridge: Ridge | None = None) -> float:
    """B read in all; with a ridge the B that could be read in the time: of each part the longer of bytes and FLOPs."""
    if ridge is None:
        return sum(part.nbytes for part in parts.values())
    turns = {"fp8": ridge.fp8, "bf16": ridge.bf16}
    return sum(max(part.nbytes, part.flops / turns[part.peak]) for part in parts.values())


def step_ratio(config: Config, where: Deployment, drafts: int = 1, ridge: Ridge | None = None) -> float:
    """A step of 1 + ``drafts`` tokens of each request over a step of one."""
    return cost(step(config, where, 1 + drafts), ridge) / cost(step(config, where), ridge)


def draft_cost(config: Config, where: Deployment, drafts: int = 1, ridge: Ridge | None = None) -> float:
    """All drafts of a step over a step of one token of each request."""
    return cost(draft(config, where, drafts), ridge) / cost(step(config, where), ridge)


def part_growth(config: Config, where: Deployment, names: Sequence[str], drafts: int = 1) -> float:
    """Bytes that some parts need for 1 + ``drafts`` tokens of each request, over those for one token.

    ``names`` are those of ``step`` and ``draft``, of one dense and one MoE layer, eh_proj and the head.
    """

    def nbytes(tokens: int) -> float:
        found = layers(config, where, tokens, dense=1, moe=1) | {
            "mtp_projection": matrix(2 * config.hidden_size, config.hidden_size, where.batch * tokens),
            "head": head(config, where, tokens),
        }
        return sum(found[name].nbytes for name in names)

    return nbytes(1 + drafts) / nbytes(1)


def all_dense(config: Config) -> Config:
    """The model with every layer dense, MTP's too: in V3 a token activates as much, as 9 x 2048 = 18432."""
    return config.replace(first_k_dense_replace=config.num_hidden_layers)


def expected_tokens(acceptance: Sequence[float]) -> float:
    """Tokens a step gives, with the chance that each draft is accepted if those before it were: 1 + a1 + a1 a2 + ...

    Raises BadInput unless each is between 0 and 1.
    """
    if wrong := [a for a in acceptance if not 0 <= a <= 1]:
        raise BadInput(f"acceptance {wrong[0]}", where="speculation", right="shares between 0 and 1")
    return 1 + sum(math.prod(acceptance[: d + 1]) for d in range(len(acceptance)))


def speed_up(acceptance: Sequence[float], step_ratio: float, draft_cost: float = 0.0) -> float:
    """Tokens per second over plain decoding's: tokens a step over what step and drafts cost, in plain steps."""
    return expected_tokens(acceptance) / (step_ratio + draft_cost)


def acceptance_needed(target: float, step_ratio: float, draft_cost: float = 0.0) -> float | None:
    """The acceptance of one draft at which the speed-up is ``target``; None where no acceptance reaches it."""
    needed = max(0.0, target * (step_ratio + draft_cost) - 1)
    return needed if needed <= 1 else None
