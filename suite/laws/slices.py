"""Whether an operation at a shape is a slice of a model: the matrices, widths and heads that a layer of a config has.

Numbers of tokens, rows and sequences are free; experts and heads may be one GPU's equal share. Letters as in
laws/params.py; shapes have the keys of laws/work.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from v3bench.baselines.config import DenseConfig
from v3bench.model_ref.config import Config
from v3bench.suite.laws.work import EXPANDED_KEY, LATENT, ROPE, VALUE

AnyConfig = Config | DenseConfig
Shape = Mapping[str, int]
Matrices = set[tuple[int, int]]  # (outputs, inputs)
HEAD = 128  # the width of a head that the GQA kernels are written for


def matrices(config: AnyConfig) -> Matrices:
    """Every weight that a token meets, as it is stored or as it is fused for serving."""
    D, H = config.hidden_size, config.num_attention_heads
    ffn = {(2 * config.intermediate_size, D), (D, config.intermediate_size), (config.vocab_size, D)}
    if isinstance(config, DenseConfig):
        d, J = config.head_dim, config.num_key_value_heads
        return ffn | {((H + 2 * J) * d, D), (H * d, D), (J * d, D), (D, H * d)}
    C, N, R, V, Q = (
        config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim, config.q_lora_rank,
    )  # fmt: skip
    queries = {(H * (N + R), D)} if Q is None else {(Q, D), (Q + C + R, D), (H * (N + R), Q)}
    attention = queries | {(C + R, D), (H * (N + V), C), (D, H * V)}
    shared = config.n_shared_experts * config.moe_intermediate_size
    return ffn | attention | experts(config) | {(2 * shared, D), (D, shared), (D, 2 * D)}


def experts(config: AnyConfig) -> Matrices:
    """A routed expert's two matrices."""
    if isinstance(config, DenseConfig):
        return set()
    D, F = config.hidden_size, config.moe_intermediate_size
    return {(2 * F, D), (D, F)}


def either_way(matrices: Matrices) -> Matrices:
    """With each one transposed."""
    return matrices | {(b, a) for a, b in matrices}


def mla(config: AnyConfig, H: int) -> bool:
    """Whether the config has the heads that the MLA kernels are written for, H of them or a multiple."""
    return (
        isinstance(config, Config)
        and (config.kv_lora_rank, config.qk_rope_head_dim) == (LATENT, ROPE)
        and (config.qk_nope_head_dim + ROPE, config.v_head_dim) == (EXPANDED_KEY, VALUE)
        and config.num_attention_heads % H == 0
    )


def gqa(config: AnyConfig, shape: Shape) -> bool:
    """Heads and groups of the config, or an equal share of both."""
    if not isinstance(config, DenseConfig) or config.head_dim != HEAD or config.num_key_value_heads % shape["J"]:
        return False
    return config.num_attention_heads * shape["J"] == config.num_key_value_heads * shape["H"]


def of_experts(config: AnyConfig, E: int, matrix: tuple[int, int]) -> bool:
    """A share of the routed experts, with their own matrices."""
    return isinstance(config, Config) and config.n_routed_experts % E == 0 and matrix in either_way(experts(config))


def hidden(config: AnyConfig) -> set[int]:
    """The widths that are normalised."""
    low = {config.q_lora_rank, config.kv_lora_rank} if isinstance(config, Config) else set()
    return {config.hidden_size} | {width for width in low if width}


def inner(config: AnyConfig) -> set[int]:
    """The widths of feed-forward networks."""
    if isinstance(config, DenseConfig):
        return {config.intermediate_size}
    return {config.intermediate_size, config.moe_intermediate_size}


def chosen(config: AnyConfig) -> int:
    """Experts of a token; 0 without experts."""
    return config.num_experts_per_tok if isinstance(config, Config) else 0


def of_weights(config: AnyConfig, shapes: Iterable[tuple[int, ...]]) -> bool:
    """Whether weights are a layer's own, an equal share of its routed experts (E, N, K), or of the head's rows."""

    def own(shape: tuple[int, ...]) -> bool:
        if len(shape) == 1:
            return shape[0] in hidden(config)
        if len(shape) == 3:
            return of_experts(config, shape[0], shape[1:]) and shape[1:] in experts(config)
        share = shape[-1] == config.hidden_size and config.vocab_size % shape[0] == 0
        return len(shape) == 2 and (share or shape in matrices(config))

    shapes = list(shapes)
    return bool(shapes) and all(map(own, shapes))


RULES: Mapping[str, Callable[[AnyConfig, Shape], bool]] = {
    "quantize_tiles": lambda c, s: s["K"] in {inputs for _, inputs in matrices(c)},
    "dequantize_tiles": lambda c, s: s["K"] in {inputs for _, inputs in matrices(c)},
    "quantize_blocks": lambda c, s: (s["N"], s["K"]) in matrices(c),
    "dequantize_blocks": lambda c, s: (s["N"], s["K"]) in matrices(c),
    "fp8_gemm": lambda c, s: (s["N"], s["K"]) in matrices(c),
    "fp8_gemm_wgrad": lambda c, s: (s["M"], s["N"]) in either_way(matrices(c)),
    "grouped_fp8_gemm": lambda c, s: of_experts(c, s["E"], (s["N"], s["K"])),
    "masked_fp8_gemm": lambda c, s: of_experts(c, s["E"], (s["N"], s["K"])),
    "grouped_fp8_wgrad": lambda c, s: of_experts(c, s["E"], (s["M"], s["N"])),
    "paged_mla": lambda c, s: mla(c, s["H"]),
    "paged_mla_fp8": lambda c, s: mla(c, s["H"]),
    "mla_prefill": lambda c, s: mla(c, s["H"]),
    "mla_prefill_backward": lambda c, s: mla(c, s["H"]),
    "paged_gqa": gqa,
    "paged_gqa_fp8": gqa,
    "route": lambda c, s: isinstance(c, Config) and (s["E"], s["K"]) == (c.n_routed_experts, c.num_experts_per_tok),
    "permute": lambda c, s: (s["K"], s["D"]) == (chosen(c), c.hidden_size),
    "unpermute": lambda c, s: (s["K"], s["D"]) == (chosen(c), c.hidden_size),
    "rms_norm_quantize": lambda c, s: s["D"] in hidden(c),
    "add_rms_norm_quantize": lambda c, s: s["D"] == c.hidden_size,
    "swiglu_quantize": lambda c, s: s["F"] in inner(c),
    "fp8_linear": lambda c, s: (s["N"], s["K"]) in matrices(c),
    "masked_mlp": lambda c, s: of_experts(c, s["E"], (s["D"], s["F"])),
}


def is_slice(op: str, shape: Shape, config: AnyConfig) -> bool:
    """Whether the operation at this shape is part of one layer of the config's model; not where a dimension lacks."""
    try:
        return op in RULES and RULES[op](config, shape)
    except KeyError:
        return False
