"""Floating-point operations of a config, exactly, as integers over a whole sequence.

A multiply-add is 2 operations. Counted are matrix products: projections, experts, router, head and the two
products of attention (scores, weighted values). Norms, softmax, RoPE, activations and lookups are not.
Training is 3 x forward: each product has two products of its size in the backward pass; nothing is recomputed.
Letters as in params.py; S tokens, P query-key pairs, L context length. No torch here.
"""

from __future__ import annotations

from v3bench.baselines.config import DenseConfig
from v3bench.model_ref.config import Config
from v3bench.suite.laws import params

AnyConfig = Config | DenseConfig

# The parts of a count, in the order tables show them; "attention" is the two products of attention alone.
PARTS = (
    "attention_projections", "attention", "dense_ffn", "routed_experts", "shared_experts", "router", "head",
    "mtp_projection",
)  # fmt: skip
PER_TOKEN = {"attention": "attention_projections"}  # params.py's word for a weight -> the part it is counted in


def forward(config: AnyConfig, seq_len: int, *, causal: bool = True, head: bool = True, router: bool = True) -> int:
    """One sequence through the main model; MLA expanded, as in training and prefill; head on every token.

    causal: pairs of the lower triangle, S(S+1)/2, within the window if a layer has one; else the whole matrix.
    """
    parts = forward_parts(config, seq_len, causal=causal)
    return sum(n for part, n in parts.items() if (head or part != "head") and (router or part != "router"))


def forward_parts(config: AnyConfig, seq_len: int, *, causal: bool = True) -> dict[str, int]:
    """``forward`` by part (see PARTS)."""
    layers = range(config.num_hidden_layers)
    scored = sum(pairs(seq_len, causal=causal, window=window(config, i)) for i in layers)
    return {**linear(config, seq_len), "attention": 2 * scored * expanded_width(config)}


def train(config: AnyConfig, seq_len: int, *, causal: bool = True) -> int:
    """Forward and backward of one sequence, MTP out: 3 x forward."""
    return 3 * forward(config, seq_len, causal=causal)


def decode(config: AnyConfig, context: int) -> int:
    """One token generated at context ``context``, which counts the token itself: it attends to ``context`` positions.

    MLA in its absorbed form: queries are carried into the latent space, where scores and values are taken.
    """
    return sum(decode_parts(config, context).values())


def decode_parts(config: AnyConfig, context: int) -> dict[str, int]:
    """``decode`` by part. The key and value maps act on the query and the output, at the size they have per token."""
    attended = sum(min(context, window(config, i) or context) for i in range(config.num_hidden_layers))
    return {**linear(config, 1), "attention": 2 * attended * absorbed_width(config)}


def mtp(config: AnyConfig, seq_len: int, *, causal: bool = True, head: bool = True) -> int:
    """All MTP modules over seq_len tokens, forward: eh_proj, one layer and the shared head each (section 2.2)."""
    return sum(n for part, n in mtp_parts(config, seq_len, causal=causal).items() if head or part != "head")


def mtp_parts(config: AnyConfig, seq_len: int, *, causal: bool = True) -> dict[str, int]:
    """``mtp`` by part; empty where the config has no MTP module."""
    if not isinstance(config, Config) or not config.num_nextn_predict_layers:
        return {}
    depth, weights = config.num_nextn_predict_layers, params.count(config).mtp_active
    parts = {PER_TOKEN.get(part, part): 2 * seq_len * n for part, n in weights.items()}
    parts["head"] = 2 * seq_len * depth * config.vocab_size * config.hidden_size
    parts["attention"] = 2 * depth * pairs(seq_len, causal=causal) * expanded_width(config)
    return {part: parts[part] for part in PARTS}


def linear(config: AnyConfig, tokens: int) -> dict[str, int]:
    """Every product with a weight, by part: 2 per weight that a token is multiplied with."""
    counted = params.count(config)
    weights = {PER_TOKEN.get(part, part): n for part, n in counted.active.items()}
    weights["head"] = counted.active["head"] or counted.active["embedding"]  # tied: the same matrix
    return {part: 2 * tokens * weights[part] for part in PARTS if part not in ("attention", "mtp_projection")}


def expanded_width(config: AnyConfig) -> int:
    """Multiply-adds per query-key pair: all heads' key width (scores) and value width (weighted values)."""
    if isinstance(config, Config):
        return config.num_attention_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    return config.num_attention_heads * 2 * config.head_dim


def absorbed_width(config: AnyConfig) -> int:
    """Multiply-adds per query-key pair in the latent space: C + R for scores, C for values, per head."""
    if isinstance(config, Config):
        return config.num_attention_heads * (2 * config.kv_lora_rank + config.qk_rope_head_dim)
    return expanded_width(config)


def window(config: AnyConfig, layer: int) -> int | None:
    """The layer's sliding window in tokens, or None."""
    return config.window(layer) if isinstance(config, DenseConfig) else None


def pairs(seq_len: int, *, causal: bool, window: int | None = None) -> int:
    """Query-key pairs of one sequence; a query sees at most ``window`` positions, itself included.

    Not causal: the whole matrix, S x S, or S x window.
    """
    seen = seq_len if window is None else min(seq_len, window)
    return seen * (seen + 1) // 2 + (seq_len - seen) * seen if causal else seq_len * seen
