"""Recorded products: all of a model's layers, their inputs as the model has them, and nothing of the model changed."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels.swiglu import swiglu
from v3bench.suite import models
from v3bench.suite.budget.recorded import recorded

IDS = torch.arange(24).view(2, 12)


def made(preset):
    torch.manual_seed(1)
    config = models.load(preset)[1].replace(num_hidden_layers=2)
    model = models.build(config, device="cpu", dtype=torch.float32, mtp=True)
    model.reset_parameters()
    return model


@pytest.mark.parametrize("preset", ["deepseek-v3-tiny", "llama-tiny"])
def test_every_product_of_the_layers_is_there_once(preset):
    model = made(preset)
    found = recorded(model, IDS)
    matrices = {
        name: weight for name, weight in model.named_parameters()
        if name.startswith("layers.") and weight.ndim > 1 and ".gate." not in name
    }  # fmt: skip
    assert set(found) == set(matrices)
    for name, product in found.items():
        assert product.w.data_ptr() == matrices[name].data_ptr()  # not a copy
        assert product.x.shape[1] == product.w.shape[-1]
        assert not product.x.requires_grad


@pytest.mark.parametrize("preset", ["deepseek-v3-tiny", "llama-tiny"])
def test_inputs_are_those_of_the_model(preset):
    model = made(preset)
    found, layer = recorded(model, IDS), model.layers[0]
    first = "w_dq" if preset.startswith("deepseek") else "w_qkv"
    with torch.no_grad():
        normed = layer.attn_norm(model.embed(IDS)).flatten(0, 1)
        torch.testing.assert_close(found[f"layers.0.attn.{first}"].x, normed)
        up, down = (found[f"layers.0.ffn.{name}"] for name in ("w_gate_up", "w_down"))
        torch.testing.assert_close(down.x, swiglu(up.x @ up.w.T))


def test_experts_see_the_tokens_that_chose_them():
    model = made("deepseek-v3-tiny")
    found, routings = recorded(model, IDS), []
    with torch.no_grad():
        model.hidden(IDS, routings)
    up = found["layers.1.ffn.experts.w_gate_up"]
    tokens = found["layers.1.ffn.shared.w_gate_up"].x
    (chosen,) = (routing.chosen for routing in routings)
    pairs = list(up.by_expert())
    busy = [e for e in range(len(up.w)) if bool((chosen == e).any())]
    assert len(pairs) == len(busy) < len(up.w) or len(busy) == len(up.w)
    for e, (x, w) in zip(busy, pairs, strict=True):
        assert torch.equal(w, up.w[e])
        assert torch.equal(x, tokens[(chosen == e).any(1)])
    dense = found["layers.0.ffn.w_down"]
    assert [side.shape for pair in dense.by_expert() for side in pair] == [dense.x.shape, dense.w.shape]


def test_the_model_is_as_it_was():
    model = made("deepseek-v3-tiny")
    before, ops = model(IDS).detach(), model.ops
    recorded(model, IDS)
    assert model.ops is ops
    assert all(weight.requires_grad for weight in model.parameters())
    assert torch.equal(model(IDS), before)
