"""A small checkpoint in the released layout, spelled out name by name: the loader's table has no part in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

SMALL: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "vocab_size": 37,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "q_lora_rank": 10,
    "kv_lora_rank": 14,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "intermediate_size": 22,
    "moe_intermediate_size": 9,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
    "num_nextn_predict_layers": 1,
    "max_position_embeddings": 64,
}


def layer_shapes(c: dict[str, Any], *, moe: bool) -> dict[str, tuple[int, ...]]:
    """Released names below ``model.layers.{i}.`` and their shapes."""
    D, H, Q, C = c["hidden_size"], c["num_attention_heads"], c["q_lora_rank"], c["kv_lora_rank"]
    N, R, V, F = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], c["moe_intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (D,),
        "self_attn.q_a_proj.weight": (Q, D),
        "self_attn.q_a_layernorm.weight": (Q,),
        "self_attn.q_b_proj.weight": (H * (N + R), Q),
        "self_attn.kv_a_proj_with_mqa.weight": (C + R, D),
        "self_attn.kv_a_layernorm.weight": (C,),
        "self_attn.kv_b_proj.weight": (H * (N + V), C),
        "self_attn.o_proj.weight": (D, H * V),
        "post_attention_layernorm.weight": (D,),
    }
    widths = {"mlp.": c["intermediate_size"]}
    if moe:
        widths = {f"mlp.experts.{e}.": F for e in range(c["n_routed_experts"])}
        widths["mlp.shared_experts."] = F * c["n_shared_experts"]
        shapes["mlp.gate.weight"] = (c["n_routed_experts"], D)
        shapes["mlp.gate.e_score_correction_bias"] = (c["n_routed_experts"],)
    for prefix, width in widths.items():
        shapes |= {prefix + "gate_proj.weight": (width, D), prefix + "up_proj.weight": (width, D)}
        shapes[prefix + "down_proj.weight"] = (D, width)
    return shapes


@dataclass
class Released:
    """config.json and tensors of a checkpoint, to be changed by a test and then written."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def write(self, shards: int = 1) -> Path:
        """The folder, with one file or an index and shards."""
        (self.folder / "config.json").write_text(json.dumps(self.config))
        names = sorted(self.tensors)
        if shards == 1:
            save_file(self.tensors, self.folder / "model.safetensors")
            return self.folder
        files = {
            name: f"model-{i * shards // len(names) + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)
        }
        for file in set(files.values()):
            save_file({name: self.tensors[name] for name in names if files[name] == file}, self.folder / file)
        (self.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
        return self.folder


def made(folder: Path, *, mtp: bool = False, dtype: torch.dtype = torch.float32, **changes: Any) -> Released:
    """A checkpoint of SMALL with some keys changed and, when asked for, MTP layers; random weights."""
    c = SMALL | changes
    D, W, n = c["hidden_size"], c["vocab_size"], c["num_hidden_layers"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (W, D),
        "model.norm.weight": (D,),
        "lm_head.weight": (W, D),
    }
    for i in range(n + (c["num_nextn_predict_layers"] if mtp else 0)):
        layer = layer_shapes(c, moe=i >= c["first_k_dense_replace"])
        if i >= n:
            layer |= dict.fromkeys(("enorm.weight", "hnorm.weight", "shared_head.norm.weight"), (D,))
            layer["eh_proj.weight"] = (D, 2 * D)
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    random = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=random).to(dtype) for name, shape in shapes.items()}
    return Released(folder, c, tensors)


@pytest.fixture
def released(tmp_path: Path) -> Callable[..., Released]:
    """``made`` in the test's own folder."""
    return partial(made, tmp_path)
