"""transformers' Llama and Qwen-2 with random weights, as an oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch

TINY: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama GQA": ("Llama", {}),
    "Llama MHA": ("Llama", {"num_key_value_heads": 6}),
    "Llama MQA": ("Llama", {"num_key_value_heads": 1}),
    "Llama with llama3 scaling": ("Llama", {"rope_parameters": LLAMA3}),
    "Llama with attention biases": ("Llama", {"attention_bias": True}),
    "Llama with mlp biases": ("Llama", {"mlp_bias": True}),
    "Llama tied": ("Llama", {"tie_word_embeddings": True}),
    "Llama with wide heads": ("Llama", {"head_dim": 10, "rms_norm_eps": 1e-2}),
    "Qwen2 GQA": ("Qwen2", {}),
    "Qwen2 MHA, tied": ("Qwen2", {"num_key_value_heads": 6, "tie_word_embeddings": True}),
    "Qwen2 MQA": ("Qwen2", {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "Qwen2 with YaRN": ("Qwen2", {"rope_parameters": YARN}),
    "Qwen2 with a window": ("Qwen2", WINDOW),
    "Qwen2 MQA with a window of one": ("Qwen2", WINDOW | {"sliding_window": 1, "num_key_value_heads": 1}),
    "Qwen2 with windows of some layers": (
        "Qwen2",
        WINDOW | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
}


@pytest.fixture(params=CASES)
def oracle(request: pytest.FixtureRequest) -> Any:
    """Every case's transformers model; weights large enough for every path to move the logits."""
    import transformers

    kind, changes = CASES[request.param]
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**TINY | changes)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model
