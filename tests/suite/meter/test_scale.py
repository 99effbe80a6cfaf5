"""The scale is granted by comparing with the released models, field by field."""

from __future__ import annotations

import pytest
from v3bench.suite import models
from v3bench.suite.meter.scale import PUBLISHED, TENSOR_CORE, granted, of_case, of_preset, of_weights, published

V3 = models.load("deepseek-v3")[1]
LLAMA = models.load("llama-3.1-8b")[1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_released_models_are_full(name):
    assert of_preset(name) == "full"


def test_a_folder_is_what_was_published_by_config_and_name():
    """Later models have V3's config too, and their weights decide no claim about it."""
    assert published(V3, "DeepSeek-V3") == "deepseek-v3"
    assert published(V3, "DeepSeek-R1") is None
    assert published(V3.replace(vocab_size=256), "DeepSeek-V3") is None


def test_our_own_presets_and_what_is_no_preset_are_proxies():
    assert {of_preset(name) for name in models.presets() if name not in PUBLISHED} == {"proxy"}
    assert of_preset("kernels.route") == "proxy"


@pytest.mark.parametrize(
    "config, scale",
    [
        (V3.replace(num_hidden_layers=4), "slice"),
        (V3.replace(num_hidden_layers=2, first_k_dense_replace=1, num_nextn_predict_layers=0), "slice"),
        (V3.replace(num_hidden_layers=62), "proxy"),
        (V3.replace(n_routed_experts=128), "proxy"),
        (V3.replace(num_hidden_layers=4, hidden_size=7040), "proxy"),
        (V3.replace(num_experts_per_tok=4), "proxy"),
        (LLAMA.replace(num_hidden_layers=1), "slice"),
        (LLAMA.replace(num_key_value_heads=4), "proxy"),
    ],
)
def test_fewer_layers_are_a_slice_and_other_shapes_a_proxy(config, scale):
    assert granted(config) == scale


@pytest.mark.parametrize(
    "subject, shape, scale",
    [
        ("kernels.fp8_gemm", {"M": 64, "N": 7168, "K": 16384}, "slice"),
        ("kernels.fp8_gemm", {"M": 64, "N": 7168, "K": 16000}, "proxy"),
        ("kernels.paged_gqa", {"B": 1, "H": 28, "J": 4, "L": 64, "cold": True}, "slice"),
        ("kernels.fp8_gemm", {"shapes": [{"M": 1, "N": 7168, "K": 16384}, {"M": 5, "N": 2112, "K": 7168}]}, "slice"),
        ("kernels.fp8_gemm", {"shapes": [{"M": 1, "N": 7168, "K": 16384}, {"M": 5, "N": 2112, "K": 7169}]}, "proxy"),
        ("kernels.fp8_gemm", {}, "proxy"),
        ("kernels.ceiling", {"n": 8192}, "proxy"),
        ("deepseek-v3", {"batch": 1}, "full"),
        (TENSOR_CORE, {"lengths": [128]}, "full"),
    ],
)
def test_a_kernels_scale_follows_from_its_shapes(subject, shape, scale):
    assert of_case(subject, shape) == scale


@pytest.mark.parametrize(
    "name, shapes, scale",
    [
        ("deepseek-v3", [(7168,), (36864, 7168), (7168, 18432)], "slice"),
        ("deepseek-v3", [(7168,), (36864, 7168), (7168, 18431)], "proxy"),
        ("deepseek-v3", [(2, 4096, 7168), (2, 7168, 2048)], "slice"),
        ("deepseek-v3", [(3, 4096, 7168)], "proxy"),  # no equal share of 256
        ("deepseek-v3", [(2, 7168, 4096)], "proxy"),
        ("deepseek-v3", [(129280 // 4, 7168)], "slice"),
        ("deepseek-v3", [(129280 // 3, 7168)], "proxy"),
        ("deepseek-v3", [(7167,)], "proxy"),
        ("deepseek-v3", [], "proxy"),
        ("deepseek-v3-small", [(7168,)], "proxy"),
    ],
)
def test_weights_of_a_layer_s_own_shapes_are_a_slice(name, shapes, scale):
    assert of_weights(name, shapes) == scale
