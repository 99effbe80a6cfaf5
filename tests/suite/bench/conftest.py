"""A small released-style checkpoint for the benchmarks that take one."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file
from v3bench.suite import models

WHOLE = (
    ("embed.", "model.embed_tokens."),
    ("head.", "lm_head."),
    ("norm.", "model.norm."),
    ("layers.", "model.layers."),
)
WITHIN = (
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn.w_o", "self_attn.o_proj.weight"),
    ("ffn.w_down", "mlp.down_proj.weight"),
)


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder of llama-tiny with random weights, one file."""
    model = models.build(models.load("llama-tiny")[1], device="cpu", dtype=torch.float32)
    config = model.config
    queries, keys = (config.head_dim * n for n in (config.num_attention_heads, config.num_key_value_heads))
    joined = {
        "attn.w_qkv": ("self_attn", {"q_proj": queries, "k_proj": keys, "v_proj": keys}),
        "ffn.w_gate_up": ("mlp", {"gate_proj": config.intermediate_size, "up_proj": config.intermediate_size}),
    }
    tensors = {}
    for ours, weight in model.state_dict().items():
        start = next(pair for pair in WHOLE if ours.startswith(pair[0]))
        name = ours.replace(*start, 1)
        for pair in WITHIN:
            name = name.replace(*pair)
        for key, (module, rows) in joined.items():
            if name.endswith(key):
                parts = zip(rows, weight.split(list(rows.values())), strict=True)
                tensors |= {name.replace(key, f"{module}.{part}.weight"): values.clone() for part, values in parts}
                break
        else:
            tensors[name] = weight.clone()
    made = tmp_path / "checkpoint"
    made.mkdir()
    save_file(tensors, made / "model.safetensors")
    shutil.copy(models.presets()["llama-tiny"], made / "config.json")
    return made
