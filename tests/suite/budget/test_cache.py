"""What a cache format costs one layer: exact where nothing is lost, and a window's error is that of the lost tokens."""

from __future__ import annotations

import pytest
import torch
from v3bench.model_ref import kv_formats
from v3bench.model_ref.errors import BadInput
from v3bench.suite import models
from v3bench.suite.budget import cache
from v3bench.suite.budget.cache import Layer, cost, granted, shortened, storages, storages_of, synthetic
from v3bench.suite.laws import kv

MLA, GQA = "deepseek-v3-tiny", "llama-tiny"


class Exact:
    """A format that loses nothing."""

    def store(self, x):
        return kv_formats.Stored((x,), *x.shape[-2:])

    def load(self, stored):
        return stored.parts[0]

    def kept(self, tokens):
        return torch.arange(tokens)


@pytest.mark.parametrize("subject", [MLA, GQA])
@pytest.mark.parametrize("distribution", cache.DISTRIBUTIONS)
def test_a_format_that_loses_nothing_costs_nothing(subject, distribution):
    layer = synthetic(subject, distribution, 40)
    found = cost(layer, [Exact()] * len(layer.cached))
    assert (found.relative, found.worst_head) == (0.0, 0.0)
    assert found.cosine == pytest.approx(1) == found.worst_cosine
    assert found.lost <= found.worst_lost < 1e-6  # float32 sums of weights


@pytest.mark.parametrize("subject, names", [(MLA, kv_formats.MLA), (GQA, kv_formats.GQA)])
def test_fewer_bits_cost_more(subject, names):
    layer, config = synthetic(subject, "gaussian", 96), models.load(subject)[1]
    found = {name: cost(layer, storages_of(config, name)) for name in names}
    by_bits = [
        found[next(name for name in names if name.startswith(kind))] for kind in ("bf16", "int8", "int4", "int2")
    ]
    assert [one.relative for one in by_bits] == sorted(one.relative for one in by_bits)
    assert [one.bytes_per_token for one in by_bits] == sorted((one.bytes_per_token for one in by_bits), reverse=True)
    assert all(one.worst_head >= one.relative * 0.9 and one.worst_cosine <= one.cosine + 1e-3 for one in found.values())
    assert found["bf16"].bytes_per_token == kv.bytes_per_token_and_layer(config, "bf16")


def test_bytes_are_of_all_tokens_of_the_context():
    layer = synthetic("deepseek-v3", "outlier-channels", 130)
    v3 = models.load("deepseek-v3")[1]
    assert cost(layer, storages_of(v3, "fp8")).bytes_per_token == kv.bytes_per_token_and_layer(v3, "fp8_flashmla")
    assert cost(layer, storages_of(v3, "window-13")).bytes_per_token == 1152 / 10


@pytest.mark.parametrize("subject", [MLA, GQA])
@pytest.mark.parametrize("sinks", [0, 3])
def test_a_window_s_error_is_what_the_lost_tokens_weigh_times_how_they_differ(subject, sinks):
    layer = synthetic(subject, "gaussian", 64)
    layer = Layer(layer.q.double(), tuple(x.double() for x in layer.cached), layer.scale, layer.value_dim,
                  None if layer.w_uv is None else layer.w_uv.double())  # fmt: skip
    kept = kv_formats.Window(16, sinks).kept(64)
    gone = torch.tensor([t for t in range(64) if t not in kept])
    weights, whole = layer.attend(layer.cached)
    inside, outside = (layer.attend([x[:, :, which] for x in layer.cached])[1] for which in (kept, gone))
    lost = weights[..., gone].sum(-1)
    assert torch.allclose(inside - whole, lost[..., None] * (inside - outside), atol=1e-12)
    found = cost(layer, [kv_formats.Window(16, sinks, Exact())] * len(layer.cached))
    assert found.lost == pytest.approx(float(lost.mean()), rel=1e-9)
    assert found.worst_lost == pytest.approx(float(lost.max()), rel=1e-9)
    assert found.relative == pytest.approx(float((inside - whole).norm() / whole.norm()), rel=1e-9)


def test_a_window_that_holds_the_context_costs_what_bfloat16_does():
    layer, config = synthetic(GQA, "gaussian", 32), models.load(GQA)[1]
    assert cost(layer, storages_of(config, "window-32")) == cost(layer, storages_of(config, "bf16"))


def test_scales_per_channel_are_for_channels_that_lie_far_off():
    config = models.load(GQA)[1]
    layer = synthetic(GQA, "outlier-channels", 256)
    per_channel, per_token = (cost(layer, storages_of(config, name)).relative for name in ("int4-kivi", "int4-token"))
    assert per_channel < per_token / 2


@pytest.mark.parametrize("subject", ["deepseek-v3", "llama-3.1-8b", MLA, GQA])
def test_drawn_layers_have_the_model_s_widths_and_sharpness(subject):
    layer, config = synthetic(subject, "outlier-channels", 64), models.load(subject)[1]
    weights, out = layer.attend(layer.cached)
    assert out.shape[1] == config.num_attention_heads == layer.q.shape[1]
    assert sum(x.shape[1] * x.shape[3] for x in layer.cached) == kv.elements_per_token(config)
    spread = weights.log().std(-1).flatten()
    assert spread[0] == pytest.approx(cache.SHARPNESS[0], rel=1e-3)
    assert spread[-1] == pytest.approx(cache.SHARPNESS[1], rel=1e-3)
    assert torch.equal(shortened(layer, 9).cached[0], layer.cached[0][:, :, -9:])


def test_only_a_released_model_s_layer_is_a_slice():
    assert [granted(name) for name in ("deepseek-v3", "llama-3.1-8b", "qwen2.5-72b")] == ["slice"] * 3
    assert [granted(name) for name in (MLA, GQA, "proxy.v3-2m")] == ["proxy"] * 3


@pytest.mark.parametrize(
    "make, what",
    [
        (lambda: storages("mqa", "bf16"), "kind of attention 'mqa'"),
        (lambda: storages("gqa", "window-"), "format 'window-'"),
        (lambda: storages("mla", "int4-kivi", 32), "format 'int4-kivi'"),
        (lambda: synthetic(GQA, "uniform", 4), "distribution 'uniform'"),
        (lambda: shortened(synthetic(GQA, "gaussian", 40), 41), "41 tokens of 40"),
    ],
)
def test_what_does_not_exist_is_refused(make, what):
    with pytest.raises(BadInput, match=what):
        make()


def test_windows_by_name():
    assert storages("gqa", "window-8-sinks-2") == (kv_formats.Window(8, 2), kv_formats.Window(8, 2))
    assert storages("mla", "window-8", 32) == (kv_formats.Window(8),)


def test_a_layer_moves_whole():
    layer = synthetic("deepseek-v3", "gaussian", 4)
    moved = layer.to("meta")
    assert {x.device.type for x in (moved.q, *moved.cached, moved.w_uv)} == {"meta"}
    assert (moved.scale, moved.value_dim) == (layer.scale, layer.value_dim)
