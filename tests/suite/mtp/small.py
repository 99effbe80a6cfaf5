"""A small model, and windows of tokens that it reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from v3bench.model_ref.config import Config
from v3bench.model_ref.model import Model

RAW: dict[str, Any] = {
    "model_type": "deepseek_v3", "vocab_size": 23, "hidden_size": 24, "num_hidden_layers": 2,
    "first_k_dense_replace": 1, "num_attention_heads": 3, "num_key_value_heads": 3, "q_lora_rank": 10,
    "kv_lora_rank": 14, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5, "intermediate_size": 22,
    "moe_intermediate_size": 9, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "routed_scaling_factor": 1.3, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "initializer_range": 0.3,
}  # fmt: skip
ROWS, LENGTH = 3, 9  # tokens read of each window


def model_of(modules: int) -> Model:
    """Float64, so that no near-tie is decided by rounding; larger weights, so that what is said differs."""
    return Model(Config.from_dict(RAW | {"num_nextn_predict_layers": modules}), dtype=torch.float64)


def windows() -> Tensor:
    return torch.randint(0, RAW["vocab_size"], (ROWS, LENGTH + 1))
