"""Small checkpoints in the released layout whose matrices have several blocks of 128 x 128, whole and ragged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..model_ref.conftest import Released, made

# Ragged: 128 divides few of its sides. Whole: every side of a matrix.
RAGGED: dict[str, Any] = {
    "hidden_size": 140,
    "q_lora_rank": 130,
    "intermediate_size": 270,
    "moe_intermediate_size": 136,
}
WHOLE: dict[str, Any] = {
    "hidden_size": 256, "q_lora_rank": 128, "kv_lora_rank": 64, "qk_nope_head_dim": 64, "qk_rope_head_dim": 64,
    "v_head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 256,
    "moe_intermediate_size": 128, "n_shared_experts": 1,
}  # fmt: skip
MOVED = "model.layers.1.self_attn.o_proj.weight"
EXPERT = "model.layers.2.mlp.experts.3.up_proj.weight"  # of the MTP layer


def bf16(folder: Path, **changes: Any) -> Released:
    """A BF16 checkpoint with an MTP layer, not yet written; weights differ in magnitude from block to block."""
    folder.mkdir()
    checkpoint = made(folder, mtp=True, dtype=torch.bfloat16, **{**RAGGED, **changes})
    random = torch.Generator().manual_seed(1)
    for tensor in checkpoint.tensors.values():
        tensor *= 10 ** (torch.rand(tensor.shape[:1], generator=random) * 4 - 5).view(-1, *[1] * (tensor.ndim - 1))
    return checkpoint
