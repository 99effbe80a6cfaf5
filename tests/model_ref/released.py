"""transformers' own DeepSeek modules as an oracle, and its weights under this project's names."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from v3bench.model_ref.config import Config
from v3bench.model_ref.model import Model

RENAMED = (
    (r"^model\.embed_tokens\.", "embed."),
    (r"^model\.norm\.", "norm."),
    (r"^lm_head\.", "head."),
    (r"^model\.layers\.", "layers."),
    (r"^mtp_block\.", "block."),
    (r"^post_norm\.", "norm."),
    (r"input_layernorm", "attn_norm"),
    (r"post_attention_layernorm", "ffn_norm"),
    (r"q_a_layernorm", "q_norm"),
    (r"kv_a_layernorm", "kv_norm"),
    (r"\.mlp\.", ".ffn."),
    (r"self_attn\.q_proj\.weight", "attn.w_q"),
    (r"self_attn\.q_a_proj\.weight", "attn.w_dq"),
    (r"self_attn\.q_a_proj\.bias", "attn.b_dq"),
    (r"self_attn\.q_b_proj\.weight", "attn.w_uq"),
    (r"self_attn\.kv_a_proj_with_mqa\.weight", "attn.w_dkv"),
    (r"self_attn\.kv_a_proj_with_mqa\.bias", "attn.b_dkv"),
    (r"self_attn\.kv_b_proj\.weight", "attn.w_ukv"),
    (r"self_attn\.o_proj\.weight", "attn.w_o"),
    (r"self_attn\.o_proj\.bias", "attn.b_o"),
    (r"self_attn\.", "attn."),
    (r"\.experts\.gate_up_proj", ".experts.w_gate_up"),
    (r"\.experts\.down_proj", ".experts.w_down"),
    (r"shared_experts\.", "shared."),
    (r"down_proj\.weight", "w_down"),
)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' state_dict under our names: one gate_up in place of gate and up."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, ours in RENAMED:
            name = re.sub(pattern, ours, name)
        out[name] = tensor
    for name in [name for name in out if name.endswith("gate_proj.weight")]:
        stem = name.removesuffix("gate_proj.weight")
        out[stem + "w_gate_up"] = torch.cat((out.pop(name), out.pop(stem + "up_proj.weight")))
    return out


def pair(raw: dict[str, Any], *, seed: int, mtp: bool = False) -> tuple[nn.Module, Model]:
    """(transformers' model, ours) of one config.json, with the same random weights; ours refuses any missing name."""
    import transformers

    torch.manual_seed(seed)
    name = {"deepseek_v3": "DeepseekV3", "deepseek_v2": "DeepseekV2"}[raw["model_type"]]
    config_cls, model_cls = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM")
    theirs = model_cls(config_cls(**{key: value for key, value in raw.items() if key != "model_type"})).eval()
    with torch.no_grad():
        for key, tensor in theirs.state_dict().items():
            # Larger than the usual start: every path must move the logits by much more than the tolerance.
            tensor.normal_(1.0 if "norm" in key else 0.0, 0.1 if "norm" in key or "bias" in key else 0.15)
    ours = Model(Config.from_dict(raw), mtp=mtp).eval()
    state = renamed(theirs.state_dict())
    if ours.config.tie_word_embeddings:
        del state["head.weight"]
    ours.load_state_dict(state)
    return theirs, ours
