"""Another implementation of the same models, counted the same way, costs what the formulas say: transformers'."""

import json

import pytest
import torch
import transformers
from v3bench.suite.laws import flops
from v3bench.suite.meter.count import counting
from v3bench.suite.models import load, presets

SMALL = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
    "intermediate_size": 80, "vocab_size": 100,
}  # fmt: skip
CASES = {
    "deepseek-v3-tiny": (transformers.DeepseekV3ForCausalLM, transformers.DeepseekV3Config, {}),
    "llama-3.1-8b": (transformers.LlamaForCausalLM, transformers.LlamaConfig, SMALL),
    "qwen2.5-7b": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, SMALL),
}


@pytest.mark.parametrize("preset", CASES)
def test_transformers_models_cost_what_the_formulas_say(preset):
    model_class, config_class, changes = CASES[preset]
    raw = json.loads(presets()[preset].read_text()) | changes
    model = model_class(config_class(**{key: raw[key] for key in raw.keys() - {"model_type", "architectures"}})).float()
    with counting(model) as count, torch.no_grad():
        model(torch.zeros(1, 9, dtype=torch.int64), use_cache=False)
    config = load(preset, changes)[1]
    assert count.total == flops.forward(config, 9)
    assert count.total_full == flops.forward(config, 9, causal=False)
