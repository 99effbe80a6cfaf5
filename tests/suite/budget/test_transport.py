"""Messages between GPUs: bytes per value, errors of each format, and what a model sends."""

from __future__ import annotations

import pytest
import torch
from v3bench.model_ref.errors import BadInput
from v3bench.suite import models
from v3bench.suite.budget.transport import FORMATS, carried, message, sent
from v3bench.suite.ledger import claims


def test_the_formats_are_those_that_claims_pick():
    assert set(FORMATS) == set(claims.FORMATS)


@pytest.mark.parametrize(
    "name, nbytes",
    [
        ("logfmt-8", 1 + 8 / 128),
        ("logfmt-10", 1.25 + 8 / 128),
        ("e4m3", 1 + 4 / 128),
        ("e5m2", 1 + 4 / 128),
        ("bf16", 2),
    ],
)
def test_bytes_count_the_scales(name, nbytes):
    x = message("combine", "gaussian", 3, 256)
    assert carried(name, x).bytes_per_value == nbytes
    assert carried(name, x[:, :130]).bytes_per_value > (nbytes if name != "bf16" else 1.99)


@pytest.mark.parametrize("distribution", ["gaussian", "laplace", "student-t"])
def test_more_digits_lose_less(distribution):
    x = message("combine", distribution, 16, 512)
    found = {name: carried(name, x) for name in FORMATS}
    assert found["bf16"].error.relative < found["logfmt-10"].error.relative < found["logfmt-8"].error.relative
    assert found["e4m3"].error.relative < found["e5m2"].error.relative
    assert all(one.error.cosine > 0.99 for one in found.values())


def test_zeros_have_no_error_of_their_own():
    x = torch.zeros(2, 128)
    x[0, 0] = 1.0
    assert carried("logfmt-8", x).of_values == 0.0 == carried("e4m3", x).error.relative


def test_dispatched_values_are_normalised():
    x = message("dispatch", "outlier-channels", 8, 512)
    assert torch.allclose(x.square().mean(-1), torch.ones(8), rtol=1e-3)
    assert not torch.equal(x, message("dispatch", "outlier-channels", 8, 512, 1))


def test_a_mixture_sends_each_token_to_each_of_its_experts():
    model = models.build(models.load("deepseek-v3-tiny")[1], device="cpu", dtype=torch.float32, mtp=False)
    config = model.config
    ids = torch.arange(10).view(2, 5)
    pairs = 10 * config.num_experts_per_tok * (config.num_hidden_layers - config.first_k_dense_replace)
    found = sent(model, ids)
    assert found["dispatch"].shape == found["combine"].shape == (pairs, config.hidden_size)
    assert all(carried(name, x).error.relative < 0.1 for name in FORMATS for x in found.values())


def test_a_dense_model_s_networks_stand_for_experts():
    model = models.build(models.load("llama-tiny")[1], device="cpu", dtype=torch.float32)
    outputs = []
    hooks = [layer.ffn.register_forward_hook(lambda _, __, out: outputs.append(out)) for layer in model.layers]
    ids = torch.arange(6).view(1, 6)
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    assert torch.allclose(sent(model, ids)["combine"], torch.cat([out[0] for out in outputs]), atol=1e-6)


@pytest.mark.parametrize(
    "make, what",
    [
        (lambda: carried("e4m2", torch.ones(1, 1)), "format 'e4m2'"),
        (lambda: message("gather", "gaussian", 1, 1), "stage 'gather'"),
        (lambda: message("combine", "cauchy", 1, 1), "distribution 'cauchy'"),
    ],
)
def test_what_does_not_exist_is_refused(make, what):
    with pytest.raises(BadInput, match=what):
        make()
