"""Parameters of a config, exactly: V3 report section 2.1 (MLA, DeepSeekMoE), 2.2 (MTP).

Letters: D hidden_size, H heads, Q q_lora_rank, C kv_lora_rank, N/R/V the head's key, decoupled-key and value
widths, d head_dim, F an FFN's width, E routed experts, W vocabulary. No torch: this is arithmetic on a config.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

from v3bench.baselines.config import DenseConfig
from v3bench.model_ref.config import Config

AnyConfig = Config | DenseConfig

# Every part a stored tensor can belong to, in the order tables show them.
PARTS = (
    "embedding", "attention", "dense_ffn", "routed_experts", "shared_experts", "router", "router_bias",
    "norms", "biases", "head", "mtp_projection",
)  # fmt: skip


@dataclass(frozen=True)
class Params:
    """Parameter counts; every number is of scalars, as int.

    total: every stored tensor but MTP's, bias buffers in, a tied matrix once.
    activated: what one token reads: total less the routed experts not chosen; input embedding and head in.
    activated_without_input_embedding: the same less the embedding table, unless it is the head as well (tied).
    mtp: the MTP modules' own tensors; embedding and head are shared with the main model and not counted again.
    parts, active, mtp_parts, mtp_active: the same by part (see PARTS); active ones are those of one token.
    """

    total: int
    activated: int
    activated_without_input_embedding: int
    mtp: int
    parts: dict[str, int]
    active: dict[str, int]
    mtp_parts: dict[str, int]
    mtp_active: dict[str, int]

    @property
    def matmul(self) -> int:
        """The N of 6N: weights multiplied for one token; head and router in, norms, biases and lookups out."""
        return self.matmul_without_router + self.active["router"]

    @property
    def matmul_without_router(self) -> int:
        """The N behind Table 4 of arXiv 2505.09343: as ``matmul``, without the router's gates."""
        head = self.active["head"] or self.active["embedding"]
        kinds = ("attention", "dense_ffn", "routed_experts", "shared_experts")
        return sum(self.active[kind] for kind in kinds) + head

    @property
    def mtp_activated(self) -> int:
        """What one token reads in the MTP modules, with one shared embedding and one shared head."""
        if not self.mtp:
            return 0
        return sum(self.mtp_active.values()) + self.active["embedding"] + self.active["head"]


@cache
def count(config: AnyConfig) -> Params:
    """Count a config of either class."""
    W, D, L = config.vocab_size, config.hidden_size, config.num_hidden_layers
    stored: Counter[str] = Counter({"embedding": W * D, "norms": D})
    stored["head"] = 0 if config.tie_word_embeddings else W * D
    mtp: Counter[str] = Counter()
    if isinstance(config, Config):
        moe, depth = config.num_moe_layers, config.num_nextn_predict_layers
        add(stored, layer(config, moe=False), L - moe)
        add(stored, layer(config, moe=True), moe)
        add(mtp, layer(config, moe=config.mtp_is_moe), depth)
        add(mtp, {"mtp_projection": 2 * D * D, "norms": 3 * D}, depth)
        inactive = config.n_routed_experts - config.num_experts_per_tok
    else:
        add(stored, layer(config, moe=False), L)
        moe = depth = inactive = 0
    active, mtp_active = Counter(stored), Counter(mtp)
    active["routed_experts"] -= moe * inactive * expert(config)
    if mtp["routed_experts"]:
        mtp_active["routed_experts"] -= depth * inactive * expert(config)
    total, activated = sum(stored.values()), sum(active.values())
    return Params(
        total=total,
        activated=activated,
        activated_without_input_embedding=activated - (0 if config.tie_word_embeddings else W * D),
        mtp=sum(mtp.values()),
        parts={part: stored[part] for part in PARTS},
        active={part: active[part] for part in PARTS},
        mtp_parts={part: mtp[part] for part in PARTS},
        mtp_active={part: mtp_active[part] for part in PARTS},
    )


def add(into: Counter[str], parts: dict[str, int], times: int) -> None:
    """Count ``parts`` as often as they occur."""
    for part, number in parts.items():
        into[part] += number * times


def layer(config: AnyConfig, *, moe: bool) -> dict[str, int]:
    """One decoder layer by part: attention, a dense or a mixture FFN, two norms."""
    D = config.hidden_size
    parts = Counter({"norms": 2 * D})
    parts.update(mla(config) if isinstance(config, Config) else gqa(config))
    if moe and isinstance(config, Config):
        E = config.n_routed_experts
        parts["routed_experts"] = E * expert(config)
        parts["shared_experts"] = config.n_shared_experts * expert(config)
        parts["router"] = E * D
        parts["router_bias"] = E if config.has_correction_bias else 0
    else:
        F = config.intermediate_size
        parts["dense_ffn"] = 3 * D * F
        if isinstance(config, DenseConfig) and config.mlp_bias:
            parts["biases"] += 2 * F + D
    return dict(parts)


def mla(config: Config) -> dict[str, int]:
    """Multi-head latent attention, equations (1)-(11): the low-rank maps, their norms and biases."""
    D, H, Q, C = config.hidden_size, config.num_attention_heads, config.q_lora_rank, config.kv_lora_rank
    N, R, V = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    query = D * H * (N + R) if Q is None else D * Q + Q * H * (N + R)
    key_value = D * (C + R) + C * H * (N + V)
    # transformers puts attention_bias on the maps that touch the residual stream; a full-rank query has none.
    biases = (Q or 0) + (C + R) + D if config.attention_bias else 0
    return {"attention": query + key_value + H * V * D, "norms": (Q or 0) + C, "biases": biases}


def gqa(config: DenseConfig) -> dict[str, int]:
    """Grouped-query attention: MHA when every query head has its key head, MQA when all share one."""
    D, d = config.hidden_size, config.head_dim
    H, KV = config.num_attention_heads, config.num_key_value_heads
    biases = ((H + 2 * KV) * d if config.qkv_bias else 0) + (D if config.attention_bias else 0)
    return {"attention": D * (H + 2 * KV) * d + H * d * D, "biases": biases}


def expert(config: AnyConfig) -> int:
    """One expert's three matrices (gate, up, down); 0 for a dense model."""
    return 3 * config.hidden_size * config.moe_intermediate_size if isinstance(config, Config) else 0
