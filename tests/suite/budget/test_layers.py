"""The budget of a model's layers: the probe changes nothing, sees every product, and its figures add up."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels.ops import TORCH
from v3bench.model_ref import precision
from v3bench.model_ref.precision import RECIPES
from v3bench.suite import models
from v3bench.suite.budget import layers
from v3bench.suite.budget.error import error

SMALL = {"num_hidden_layers": 2, "vocab_size": 64}
PRESETS = ["deepseek-v3-tiny", "llama-small", "qwen2.5-small"]


def made(preset: str):
    """What makes a model of one and the same weights, in float32."""
    config = models.load(preset)[1].replace(**SMALL)
    torch.manual_seed(3)
    weights = models.build(config, device="cpu", dtype=torch.float32).state_dict()

    def rebuilt(ops):
        model = models.build(config, device="cpu", dtype=torch.float32, ops=ops)
        model.load_state_dict(weights)
        return model

    return rebuilt


def ids(length: int) -> torch.Tensor:
    return torch.randint(64, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_product_of_every_layer_is_seen_and_none_that_stays_out(preset):
    rebuilt = made(preset)
    found = layers.products(rebuilt, RECIPES["fp8"], ids(9))
    matrices = {
        name for name, weight in rebuilt(TORCH).named_parameters()
        if weight.ndim > 1 and not any(part in name for part in ("embed", "head", "gate.", "eh_proj"))
    }  # fmt: skip
    assert {name for name, _ in found} == matrices
    assert {gemm for _, gemm in found} == set(layers.GEMMS)
    assert all(0.001 < entry.relative < 0.2 and 0.97 < entry.cosine < 1 for entry in found.values())


@pytest.mark.parametrize("preset", PRESETS)
def test_the_probed_run_is_exact(preset):
    rebuilt = made(preset)
    probe = layers.Probe(RECIPES["control-1-bit"])
    model, probed = rebuilt(TORCH), rebuilt(probe.ops)
    probe.attach(probed)
    for one in (model, probed):
        one.loss(ids(9)).total.backward()
    for (name, want), got in zip(model.named_parameters(), probed.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_fewer_bits_err_more_in_each_product():
    rebuilt = made("deepseek-v3-tiny")
    three, one = (layers.products(rebuilt, RECIPES[name], ids(9)) for name in ("fp8", "control-1-bit"))
    assert all(one[key].relative > 1.5 * three[key].relative for key in three)


def test_states_drift_apart_layer_by_layer_and_end_with_the_final_norm():
    rebuilt = made("llama-small")
    other, exact = rebuilt(precision.ops(RECIPES["fp8"])), rebuilt(TORCH)
    found = layers.states(other, exact, ids(8))
    assert len(found) == SMALL["num_hidden_layers"] + 1
    assert all(0 < entry.relative < 0.3 for entry in found)
    with torch.no_grad():
        assert found[-1] == pytest.approx(error(other.hidden(ids(8)), exact.hidden(ids(8))))
