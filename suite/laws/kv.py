"""Bytes of the key-value cache, exactly. B are bytes, kB = 1000 B; KiB = 1024 B is always named as such.

MLA caches one latent (C = kv_lora_rank) and one decoupled key (R = qk_rope_head_dim) per token and layer, V3
report section 2.1.1; grouped-query attention a key and a value per key head. MTP's own cache is left out.
"""

from __future__ import annotations

from v3bench.baselines.config import DenseConfig
from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput

AnyConfig = Config | DenseConfig

STORAGES = ("bf16", "fp8", "fp8_flashmla")
CONTEXTS = tuple(1024 * n for n in (4, 8, 16, 32, 64, 128))  # tokens


def elements_per_token(config: AnyConfig) -> int:
    """Cached numbers per token and layer."""
    if isinstance(config, Config):
        return config.kv_lora_rank + config.qk_rope_head_dim
    return 2 * config.num_key_value_heads * config.head_dim


def bytes_per_token_and_layer(config: AnyConfig, storage: str) -> int | None:
    """B per token and layer; None where the storage does not exist for this shape. Raises BadInput.

    bf16: 2 B per element. fp8: 1 B per element, no scales. fp8_flashmla: the layout of FlashMLA's sparse
    decoding kernel, for its one shape: the latent in FP8, an FP32 scale per 128 of it, the decoupled key in BF16.
    """
    if storage not in STORAGES:
        raise BadInput(f"storage {storage!r} is not understood", right=" or ".join(STORAGES))
    if storage != "fp8_flashmla":
        return elements_per_token(config) * (2 if storage == "bf16" else 1)
    if not isinstance(config, Config) or (config.kv_lora_rank, config.qk_rope_head_dim) != (512, 64):
        return None
    C, R = config.kv_lora_rank, config.qk_rope_head_dim
    return C + C // 128 * 4 + R * 2


def bytes_per_token(config: AnyConfig, storage: str = "bf16") -> int | None:
    """B per token over all layers, before any window is full; None where the storage does not exist."""
    one = bytes_per_token_and_layer(config, storage)
    return None if one is None else one * config.num_hidden_layers


def bytes_per_sequence(config: AnyConfig, seq_len: int, storage: str = "bf16") -> int | None:
    """B of one sequence of seq_len tokens; a layer with a sliding window need keep no more than its window."""
    one = bytes_per_token_and_layer(config, storage)
    kept = sum(cached_tokens(config, layer, seq_len) for layer in range(config.num_hidden_layers))
    return None if one is None else one * kept


def cached_tokens(config: AnyConfig, layer: int, seq_len: int) -> int:
    """Tokens one layer must keep of a sequence of seq_len."""
    window = config.window(layer) if isinstance(config, DenseConfig) else None
    return seq_len if window is None else min(seq_len, window)


def mha_bytes_per_token(config: AnyConfig, *, decoupled_key: bool = False, bytes_per_element: int = 2) -> int:
    """B per token if the same model cached every head's key and value: what MLA or GQA saves against.

    decoupled_key: for MLA, keys of N + R instead of N elements, as its expanded form has them.
    """
    if isinstance(config, Config):
        key = config.qk_nope_head_dim + (config.qk_rope_head_dim if decoupled_key else 0)
        value = config.v_head_dim
    else:
        key = value = config.head_dim
    return config.num_attention_heads * (key + value) * config.num_hidden_layers * bytes_per_element


def ratio(config: AnyConfig, over: AnyConfig, storage: str = "bf16") -> float | None:
    """How many times the bytes per token of ``over`` this config needs; None where either has no such storage."""
    mine, other = bytes_per_token(config, storage), bytes_per_token(over, storage)
    return None if mine is None or other is None else mine / other


def quantised_bytes(tokens: int, width: int, bits: int, box: tuple[int, int], per_box: int) -> int:
    """B of ``tokens`` x ``width`` values of few bits, as model_ref/kv_formats.py stores one head's or one latent's.

    A token's values are packed and filled up to whole bytes. A box of ``box`` tokens and channels (0: all) has
    ``per_box`` B of scales; tokens that do not fill a box are kept in bf16.
    """
    r, c = box
    groups, rest = divmod(tokens, r)
    scales = -(-width // (c or max(width, 1))) * per_box
    return groups * (r * -(-width * bits // 8) + scales) + rest * width * 2


def kept_tokens(tokens: int, window: int = 0, sinks: int = 0) -> int:
    """Tokens that are kept of so many: all without a window, else the last of them and ``sinks`` first ones."""
    return min(tokens, window + sinks) if window else tokens
