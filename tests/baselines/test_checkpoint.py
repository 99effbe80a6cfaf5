"""Folders saved by transformers, read back: the same weights in our places, and the errors of the shared loader."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from v3bench.baselines import load_pretrained
from v3bench.model_ref.errors import BadInput


def test_a_saved_folder_gives_transformers_logits(oracle, tmp_path):
    oracle.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = load_pretrained(tmp_path)
    ids = torch.randint(0, 53, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = oracle(ids).logits
        got = model(ids)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    assert (model.head is None) == oracle.config.tie_word_embeddings


@pytest.fixture
def folder(tmp_path):
    """A small Llama's folder, and its tensors to be changed and saved again."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 31, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_rows_of_the_fused_projection(folder):
    tensors = load_file(folder / "model.safetensors")
    want = torch.cat([tensors[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"])
    torch.testing.assert_close(load_pretrained(folder).layers[1].attn.w_qkv.detach(), want, rtol=0, atol=0)


def test_bf16_and_ignored_tensors(folder):
    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].bfloat16()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)

    rewrite(folder, change)
    assert {p.dtype for p in load_pretrained(folder).parameters()} == {torch.float32}
    assert {p.dtype for p in load_pretrained(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_fp8_blocks(folder):
    name = "model.layers.0.mlp.up_proj.weight"
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (folder / "config.json").write_text(json.dumps(config))
    scales = torch.rand(3, 2)

    def change(tensors):
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[name + "_scale_inv"] = scales

    rewrite(folder, change)
    codes = load_file(folder / "model.safetensors")[name].float()
    got = load_pretrained(folder).layers[0].ffn.w_gate_up[40:].detach()
    assert got[39, 23] == codes[39, 23] * scales[2, 1]
    assert got[16, 15] == codes[16, 15] * scales[1, 0]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("model.layers.1.self_attn.k_proj.weight"), "k_proj.weight' is missing"),
        (lambda t: t.update({"model.layers.1.self_attn.k_proj.bias": torch.ones(12)}), "k_proj.bias': has no place"),
        (lambda t: t.update({"model.layers.1.self_attn.k_proj.weight": torch.ones(24, 24)}), "has shape [24, 24]"),
        (lambda t: t["lm_head.weight"].fill_(float("nan")), "'lm_head.weight': holds NaN"),
        (lambda t: t.update({"model.norm.weight": torch.ones(24, dtype=torch.int8)}), "has dtype I8"),
    ],
    ids=["missing", "surplus", "shape", "nan", "dtype"],
)
def test_what_does_not_fit_is_refused(folder, change, words):
    rewrite(folder, change)
    with pytest.raises(BadInput) as caught:
        load_pretrained(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_tied_head_that_differs(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(BadInput, match=r"'lm_head\.weight': differs from 'model\.embed_tokens\.weight'"):
        load_pretrained(folder)


def test_a_deepseek_file_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "deepseek_v3"}')
    with pytest.raises(BadInput, match="model_type 'deepseek_v3' is not understood; expected llama or qwen2"):
        load_pretrained(tmp_path)
