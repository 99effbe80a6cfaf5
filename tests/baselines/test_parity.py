"""Random small configs of Llama and Qwen-2: full forward and cached decoding agree with transformers.

Both run in float32, so 1e-4 of the logits' scale is some hundred roundings; a wrong mask or angle moves them by its
whole size.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from v3bench.baselines import load_pretrained

SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0},
    {"rope_type": "yarn", "factor": 8.0, "beta_fast": 4.0, "beta_slow": 1.0},
]


@st.composite
def configs(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """(kind, keyword arguments of transformers' config)."""
    kind = draw(st.sampled_from(["Llama", "Qwen2"]))
    heads, layers, width = draw(st.sampled_from([2, 4, 6])), draw(st.integers(1, 3)), draw(st.sampled_from([4, 6, 16]))
    rope = {"rope_theta": draw(st.sampled_from([100.0, 1e4, 5e5])), **draw(st.sampled_from(SCALINGS))}
    if rope["rope_type"] != "default":
        rope["original_max_position_embeddings"] = draw(st.sampled_from([8, 64]))
    options = {
        "vocab_size": draw(st.integers(20, 50)),
        "hidden_size": heads * width,
        "intermediate_size": draw(st.sampled_from([8, 40])),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-3])),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": rope,
        "max_position_embeddings": 128,
    }
    if kind == "Llama":
        options |= {"attention_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())}
        options["head_dim"] = draw(st.sampled_from([None, 8, 10]))
    elif draw(st.booleans()):
        kinds = ["full_attention", "sliding_attention"]
        options |= {"use_sliding_window": True, "sliding_window": draw(st.integers(1, 30))}
        options["layer_types"] = draw(st.lists(st.sampled_from(kinds), min_size=layers, max_size=layers))
    return kind, options


def gap(got: Tensor, want: Tensor) -> float:
    """Largest difference in units of the logits' scale."""
    return ((got - want).abs().max() / want.abs().max()).item()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(config=configs(), first=st.integers(1, 20), steps=st.lists(st.integers(1, 5), min_size=1, max_size=4))
@torch.no_grad()
def test_random_configs_agree_with_transformers(config, first, steps):
    import transformers

    kind, options = config
    torch.manual_seed(0)
    oracle = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**options)).eval()
    for name, tensor in oracle.state_dict().items():
        tensor.normal_(1.0 if "norm" in name else 0.0, 0.2)
    with tempfile.TemporaryDirectory() as folder:
        oracle.save_pretrained(folder)
        model = load_pretrained(folder)
    ids = torch.randint(0, options["vocab_size"], (2, first + sum(steps)))
    want = oracle(ids).logits
    assert gap(model(ids), want) < 1e-4
    prompt, *later = ids.split([first, *steps], dim=1)
    logits, cache = model.prefill(prompt)
    parts = [logits, *(model.decode(part, cache) for part in later)]
    assert gap(torch.cat(parts, dim=1), want) < 1e-4
