"""DeepSeek's released weights into a model: the name table and ``load_pretrained``.

How a table is used stands in checkpoint_table.py, how files are opened in checkpoint_files.py.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref.checkpoint_files import Files
from v3bench.model_ref.checkpoint_table import Table, fill, has_mtp
from v3bench.model_ref.config import Config
from v3bench.model_ref.model import Model

DEEPSEEK = Table(
    trunk={
        "embed.weight": ["model.embed_tokens.weight"],
        "norm.weight": ["model.norm.weight"],
        "head.weight": ["lm_head.weight"],
    },
    layer={
        "attn_norm.weight": ["input_layernorm.weight"],
        "ffn_norm.weight": ["post_attention_layernorm.weight"],
        "attn.w_q": ["self_attn.q_proj.weight"],
        "attn.w_dq": ["self_attn.q_a_proj.weight"],
        "attn.b_dq": ["self_attn.q_a_proj.bias"],
        "attn.q_norm.weight": ["self_attn.q_a_layernorm.weight"],
        "attn.w_uq": ["self_attn.q_b_proj.weight"],
        "attn.w_dkv": ["self_attn.kv_a_proj_with_mqa.weight"],
        "attn.b_dkv": ["self_attn.kv_a_proj_with_mqa.bias"],
        "attn.kv_norm.weight": ["self_attn.kv_a_layernorm.weight"],
        "attn.w_ukv": ["self_attn.kv_b_proj.weight"],
        "attn.w_o": ["self_attn.o_proj.weight"],
        "attn.b_o": ["self_attn.o_proj.bias"],
        "ffn.w_gate_up": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
        "ffn.w_down": ["mlp.down_proj.weight"],
        "ffn.gate.weight": ["mlp.gate.weight"],
        "ffn.gate.e_score_correction_bias": ["mlp.gate.e_score_correction_bias"],
        "ffn.experts.w_gate_up": ["mlp.experts.{e}.gate_proj.weight", "mlp.experts.{e}.up_proj.weight"],
        "ffn.experts.w_down": ["mlp.experts.{e}.down_proj.weight"],
        "ffn.shared.w_gate_up": ["mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight"],
        "ffn.shared.w_down": ["mlp.shared_experts.down_proj.weight"],
    },
    stacked={"ffn.experts.w_gate_up": "mlp.experts.gate_up_proj", "ffn.experts.w_down": "mlp.experts.down_proj"},
    mtp={
        "enorm.weight": ["enorm.weight"],
        "hnorm.weight": ["hnorm.weight"],
        "eh_proj.weight": ["eh_proj.weight"],
        "norm.weight": ["shared_head.norm.weight"],
    },
    copies={"embed_tokens.weight": "embed.weight", "shared_head.head.weight": "head.weight"},
)


def load_pretrained(
    path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", *, ops: Ops = TORCH
) -> Model:
    """A DeepSeek V2 or V3 (or kimi_k2) model with the weights of a Hugging Face folder.

    The folder holds config.json and safetensors: one file or shards; BF16, F16, F32 or FP8 with block scales,
    which are dequantised to ``dtype``. Without any MTP tensor the model has no MTP module. Raises BadInput,
    naming file and tensor, for whatever is missing, left over, of a wrong shape or dtype, or not finite.
    """
    config = Config.from_file(Path(path) / "config.json")
    with Files(path) as files:
        model = Model(config, ops=ops, device="meta", dtype=dtype, mtp=has_mtp(config, files))
        return fill(model, config, files, DEEPSEEK, ops, device, released_order)


def released_order(name: str, weight: Tensor, config: Config) -> Tensor:
    """The rotary rows as the released weights have them, pairs side by side, where a folder has the halves apart."""
    N, R, C = config.qk_nope_head_dim, config.qk_rope_head_dim, config.kv_lora_rank
    plain = {"attn.w_q": N, "attn.w_uq": N, "attn.w_dkv": C, "attn.b_dkv": C}.get(name)  # rows before the rotary ones
    if config.rope_interleave or plain is None:
        return weight
    heads = weight.reshape(-1, plain + R, *weight.shape[1:])
    halves = heads[:, plain:].reshape(len(heads), 2, R // 2, *weight.shape[1:])
    pairs = halves.transpose(1, 2).flatten(1, 2)
    return torch.cat((heads[:, :plain], pairs), dim=1).flatten(0, 1)
