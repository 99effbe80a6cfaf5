"""transformers' DeepSeek V3 and V2 and this model, same weights, float32: same logits, same MTP states.

What transformers ignores has an independent float64 formula elsewhere: V2's norm_topk_prob (test_moe.py), V3's other
scoring and selection methods (tests/kernels/test_route.py), mscale or mscale_all_dim alone (test_rope.py).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from v3bench.model_ref.model import Model

from .released import pair, renamed
from .tiny import RAW

YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 8.0, "beta_slow": 1.0, "original_max_position_embeddings": 64}


def close(got: Tensor, want: Tensor) -> None:
    """Agreement to 1e-4 of the logits' scale, which must be a scale worth the name."""
    scale = want.abs().max()
    assert scale > 0.1
    assert (got - want).abs().max() <= 1e-4 * scale


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A tiny config.json of either architecture, with every option transformers reads."""
    kind = draw(st.sampled_from(["deepseek_v3", "deepseek_v2"]))
    groups = draw(st.sampled_from([1, 2, 4]))
    raw = RAW | {
        "model_type": kind,
        "q_lora_rank": draw(st.sampled_from([None, 24])),
        "qk_nope_head_dim": draw(st.sampled_from([12, 7] if kind == "deepseek_v3" else [12])),  # V2 there: even only
        "v_head_dim": draw(st.sampled_from([10, 24])),
        "attention_bias": draw(st.booleans()),
        "n_group": groups,
        "topk_group": draw(st.integers(1, groups)),
        "num_experts_per_tok": draw(st.integers(1, 4)),
        "n_shared_experts": draw(st.integers(1, 2)),
        "first_k_dense_replace": draw(st.integers(0, 3)),
        "routed_scaling_factor": draw(st.sampled_from([1.0, 2.5])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-3])),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_theta": draw(st.sampled_from([1e4, 5e2])),
    }
    if kind == "deepseek_v3":
        raw["norm_topk_prob"] = draw(st.booleans())
    else:
        raw["topk_method"] = draw(st.sampled_from(["greedy", "group_limited_greedy"]))
    scaling = draw(
        st.sampled_from([None, {}, {"mscale": 1.0, "mscale_all_dim": 1.0}, {"mscale": 1.3, "mscale_all_dim": 0.7}])
    )
    raw["rope_scaling"] = scaling if scaling is None else YARN | scaling
    return raw


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(raw=configs(), seed=st.integers(0, 1000), batch=st.integers(1, 3), length=st.integers(2, 24), data=st.data())
def test_forward_and_cached_decode_agree_with_transformers(
    raw: dict[str, Any], seed: int, batch: int, length: int, data: st.DataObject
) -> None:
    theirs, ours = pair(raw, seed=seed)
    ids = torch.randint(0, raw["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))
    first = data.draw(st.integers(1, length - 1))
    with torch.inference_mode():
        want = theirs(ids).logits
        close(ours(ids), want)
        logits, cache = ours.prefill(ids[:, :first])
        past = theirs(ids[:, :first], use_cache=True).past_key_values
        close(logits, want[:, :first])
        for i in range(first, length):
            stepped = theirs(ids[:, i : i + 1], past_key_values=past, use_cache=True).logits
            close(ours.decode(ids[:, i : i + 1], cache), stepped)


@pytest.mark.parametrize("kind", ["deepseek_v3", "deepseek_v2"])
def test_stretched_positions_beyond_the_trained_ones_agree(kind: str) -> None:
    raw = RAW | {
        "model_type": kind,
        "rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 0.7},
        "topk_method": "greedy",
    }
    if kind == "deepseek_v3":
        del raw["topk_method"]
    theirs, ours = pair(raw, seed=1)
    ids = torch.randint(0, raw["vocab_size"], (1, 240))
    with torch.inference_mode():
        close(ours(ids), theirs(ids).logits)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("options", [{}, {"q_lora_rank": None, "attention_bias": True}], ids=["plain", "biased"])
def test_mtp_modules_agree_with_transformers(depth: int, options: dict[str, Any]) -> None:
    """transformers gives module k the positions k further on; RoPE is relative, so nothing follows from it."""
    from transformers.modeling_layers import MtpModel

    raw = RAW | {"model_type": "deepseek_v3", "num_nextn_predict_layers": depth, "rope_scaling": YARN} | options
    theirs, ours = pair(raw, seed=depth)
    modules = MtpModel(theirs, depth).eval()
    with torch.no_grad():
        for name, tensor in modules.layers.state_dict().items():
            tensor.normal_(1.0 if "norm" in name else 0.0, 0.1 if "norm" in name or "bias" in name else 0.15)
    full = Model(ours.config).eval()
    for k, module in enumerate(full.mtp):
        module.load_state_dict(renamed(modules.layers[k].state_dict()))
    full.load_state_dict(ours.state_dict(), strict=False)

    T = 9
    ids = torch.randint(0, raw["vocab_size"], (2, T + 1))
    with torch.inference_mode():
        h = theirs.model(ids[:, :T]).last_hidden_state
        close(full.hidden(ids[:, :T]), h)
        for k, got in enumerate(full.further(full.hidden(ids[:, :T]), ids), start=1):
            positions = torch.arange(k, T)[None]
            h = modules.forward_layer(k - 1, h[:, : T - k], positions, None, input_ids=ids[:, k:T])
            close(got, h)
            close(full.logits(got), theirs.lm_head(h))
