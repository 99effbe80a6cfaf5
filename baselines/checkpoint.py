"""Llama's and Qwen's released weights into the dense baseline: the name table and ``load_pretrained``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from v3bench.baselines.config import DenseConfig
from v3bench.baselines.dense import Dense
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref.checkpoint_files import Files
from v3bench.model_ref.checkpoint_table import Table, fill


def qkv_rows(config: DenseConfig) -> Sequence[int]:
    """Rows of the query, key and value projections."""
    H, J, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    return H * d, J * d, J * d


DENSE = Table(
    trunk={
        "embed.weight": ["model.embed_tokens.weight"],
        "norm.weight": ["model.norm.weight"],
        "head.weight": ["lm_head.weight"],
    },
    layer={
        "attn_norm.weight": ["input_layernorm.weight"],
        "ffn_norm.weight": ["post_attention_layernorm.weight"],
        "attn.w_qkv": ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
        "attn.b_qkv": ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"],
        "attn.w_o": ["self_attn.o_proj.weight"],
        "attn.b_o": ["self_attn.o_proj.bias"],
        "ffn.w_gate_up": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
        "ffn.b_gate_up": ["mlp.gate_proj.bias", "mlp.up_proj.bias"],
        "ffn.w_down": ["mlp.down_proj.weight"],
        "ffn.b_down": ["mlp.down_proj.bias"],
    },
    rows={"attn.w_qkv": qkv_rows, "attn.b_qkv": qkv_rows},
)


def load_pretrained(
    path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", *, ops: Ops = TORCH
) -> Dense:
    """A Llama or Qwen-2 model with the weights of a Hugging Face folder, as model_ref's of the same name reads it.

    Raises BadInput, naming file and tensor, for whatever is missing, left over, of a wrong shape or dtype, or not
    finite.
    """
    config = DenseConfig.from_file(Path(path) / "config.json")
    with Files(path) as files:
        return fill(Dense(config, ops=ops, device="meta", dtype=dtype), config, files, DENSE, ops, device)
