"""A folder whose tensors are not exactly the wanted ones is refused: one line with file and tensor."""

from __future__ import annotations

import pytest
import torch
from v3bench.model_ref import BadInput, load_pretrained

O_PROJ = "model.layers.1.self_attn.o_proj.weight"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [8, 16]}


def refused(checkpoint, *words, shards=1, **options):
    """Loading raises one line that holds every word."""
    with pytest.raises(BadInput) as caught:
        load_pretrained(checkpoint.write(shards), **options)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line


@pytest.fixture
def quantised(released):
    """A checkpoint with one FP8 weight, (24, 15) in blocks of (8, 16), and its scales."""
    checkpoint = released()
    checkpoint.config["quantization_config"] = FP8
    checkpoint.tensors[O_PROJ] = checkpoint.tensors[O_PROJ].to(torch.float8_e4m3fn)
    checkpoint.tensors[O_PROJ + "_scale_inv"] = torch.ones(3, 1)
    return checkpoint


def test_the_quantised_fixture_is_good(quantised):
    load_pretrained(quantised.write())


@pytest.mark.parametrize("name", [O_PROJ, EXPERT, "lm_head.weight", "model.layers.1.mlp.gate.e_score_correction_bias"])
def test_missing_weight(released, name):
    checkpoint = released()
    del checkpoint.tensors[name]
    refused(checkpoint, f"{name!r} is missing")


def test_several_missing_weights_are_counted(released):
    checkpoint = released()
    for name in (O_PROJ, EXPERT):
        del checkpoint.tensors[name]
    refused(checkpoint, "is missing (and 1 more)")


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.o_proj.bias",
        "model.layers.1.mlp.experts.4.up_proj.weight",
        "model.layers.2.input_layernorm.weight",  # MTP, where config.json has none
        "score.weight",
    ],
)
def test_surplus_weight(released, name):
    checkpoint = released(num_nextn_predict_layers=0)
    checkpoint.tensors[name] = torch.ones(3)
    refused(checkpoint, "model.safetensors", repr(name), "has no place")


@pytest.mark.parametrize("name", [O_PROJ, EXPERT, "model.norm.weight", "model.embed_tokens.weight"])
def test_wrong_shape(released, name):
    checkpoint = released()
    right = list(checkpoint.tensors[name].shape)
    checkpoint.tensors[name] = torch.cat([checkpoint.tensors[name]] * 2)
    refused(
        checkpoint, "-of-00003.safetensors", repr(name), f"has shape {[2 * right[0], *right[1:]]}", str(right), shards=3
    )


@pytest.mark.parametrize("value, words", [(float("nan"), "holds NaN"), (float("inf"), "infinite in torch.float32")])
@pytest.mark.parametrize("name", [O_PROJ, EXPERT, "model.norm.weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_not_finite(released, name, value, words, dtype):
    checkpoint = released(dtype=dtype)
    checkpoint.tensors[name].view(-1)[-1] = value
    refused(checkpoint, "model.safetensors", repr(name), words)


def test_values_beyond_the_models_dtype(released):
    checkpoint = released()
    checkpoint.tensors[O_PROJ][0, 0] = 1e6
    refused(checkpoint, repr(O_PROJ), "infinite in torch.float16", dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.float8_e5m2])
def test_unsupported_dtype(released, dtype):
    checkpoint = released()
    checkpoint.tensors[O_PROJ] = checkpoint.tensors[O_PROJ].to(dtype)
    refused(checkpoint, repr(O_PROJ), "has dtype", "F32 or BF16 or F16 or F8_E4M3")


def test_fp8_vector(quantised):
    name = "model.norm.weight"
    quantised.tensors[name] = quantised.tensors[name].to(torch.float8_e4m3fn)
    refused(quantised, repr(name), "has dtype F8_E4M3")


def test_fp8_without_block_size(quantised):
    del quantised.config["quantization_config"]
    refused(quantised, repr(O_PROJ), "names no block size")


def test_missing_scale(quantised):
    del quantised.tensors[O_PROJ + "_scale_inv"]
    refused(quantised, repr(O_PROJ), "without its scale", O_PROJ + "_scale_inv")


def test_surplus_scale(quantised):
    quantised.tensors[O_PROJ] = quantised.tensors[O_PROJ].float()
    refused(quantised, O_PROJ + "_scale_inv", "scale of a weight stored as F32")


@pytest.mark.parametrize("shape", [(1, 3), (3,), (3, 2), (2, 1), ()])
def test_scale_of_wrong_shape(quantised, shape):
    quantised.tensors[O_PROJ + "_scale_inv"] = torch.ones(shape)
    refused(quantised, O_PROJ + "_scale_inv", f"has shape {list(shape)}", "[3, 1] for a weight of [24, 15]")


def test_scale_of_wrong_dtype(quantised):
    quantised.tensors[O_PROJ + "_scale_inv"] = torch.ones(3, 1, dtype=torch.int64)
    refused(quantised, O_PROJ + "_scale_inv", "has dtype I64")


def test_nan_scale(quantised):
    quantised.tensors[O_PROJ + "_scale_inv"][2, 0] = float("nan")
    refused(quantised, O_PROJ + "_scale_inv", "holds NaN")


def test_nan_in_fp8(quantised):
    quantised.tensors[O_PROJ].view(torch.uint8)[5, 7] = 0x7F  # e4m3's NaN
    refused(quantised, repr(O_PROJ), "holds NaN")


def test_part_of_an_mtp_module(released):
    checkpoint = released(mtp=True)
    del checkpoint.tensors["model.layers.2.eh_proj.weight"]
    refused(checkpoint, "'model.layers.2.eh_proj.weight' is missing", "every tensor of the MTP modules, or none")


def test_one_of_two_mtp_modules(released):
    checkpoint = released(mtp=True, num_nextn_predict_layers=1)
    checkpoint.config["num_nextn_predict_layers"] = 2
    refused(checkpoint, "model.layers.3.", "is missing", "every tensor of the MTP modules, or none")


@pytest.mark.parametrize("name", ["embed_tokens.weight", "shared_head.head.weight"])
def test_a_shared_copy_that_differs(released, name):
    checkpoint = released(mtp=True)
    original = "model.embed_tokens.weight" if name.startswith("embed") else "lm_head.weight"
    checkpoint.tensors["model.layers.2." + name] = checkpoint.tensors[original].clone()
    load_pretrained(checkpoint.write())
    checkpoint.tensors["model.layers.2." + name][3, 3] += 1
    refused(checkpoint, "model.layers.2." + name, f"differs from {original!r}")


def test_a_shared_copy_of_another_shape(released):
    checkpoint = released(mtp=True)
    checkpoint.tensors["model.layers.2.embed_tokens.weight"] = torch.ones(2, 2)
    refused(checkpoint, "model.layers.2.embed_tokens.weight", "has shape [2, 2]")


def test_a_tied_head_that_differs(released):
    checkpoint = released(tie_word_embeddings=True)
    refused(checkpoint, "'lm_head.weight'", "differs from 'model.embed_tokens.weight'")
    checkpoint.tensors["lm_head.weight"] = checkpoint.tensors["model.embed_tokens.weight"].clone()
    assert load_pretrained(checkpoint.write()).head is None
    del checkpoint.tensors["lm_head.weight"]
    assert load_pretrained(checkpoint.write()).head is None


def test_nothing_is_allocated_before_the_folder_is_judged(released, monkeypatch):
    from v3bench.model_ref.model import Model

    checkpoint = released()
    del checkpoint.tensors[O_PROJ]
    monkeypatch.setattr(Model, "to_empty", lambda *args, **kwargs: pytest.fail("allocated"))
    refused(checkpoint, "is missing")
