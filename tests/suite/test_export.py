"""Export to V3's FP8 layout: what is in it, who reads it, and what is left of one that is cut short."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from v3bench import baselines
from v3bench.kernels.block_quant import reference
from v3bench.model_ref import BadInput, load_pretrained
from v3bench.model_ref.checkpoint_export import quantize
from v3bench.suite import export, released
from v3bench.suite.budget import weights
from v3bench.suite.tensor_file import Entry, TensorFile

from ..model_ref.released import renamed
from .folders import EXPERT, MOVED, WHOLE, bf16

# By name, as in the index of deepseek-ai/DeepSeek-V3: the table that the export goes by has no part in it.
IN_FP8 = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TRANSFORMERS = "transformers.quantizers.quantizer_finegrained_fp8"


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    """Several bands of rows to a matrix."""
    monkeypatch.setattr(released, "BAND", 20_000)


@pytest.fixture
def source(tmp_path):
    """A BF16 checkpoint in three shards, with a tokenizer and what else lies about."""
    checkpoint = bf16(tmp_path / "bf16")
    checkpoint.config["torch_dtype"] = "bfloat16"
    checkpoint.tensors["model.layers.1.mlp.gate.e_score_correction_bias"] = torch.randn(4)  # float32, as released
    checkpoint.write(3)
    (checkpoint.folder / "tokenizer.json").write_text("{}")
    (checkpoint.folder / "configuration_deepseek.py").write_text("# code")
    (checkpoint.folder / "pytorch_model.bin").write_bytes(b"x")
    (checkpoint.folder / "figures").mkdir()
    return checkpoint


def tensors(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_fp8_is_what_v3_releases_in_fp8_and_the_rest_stays(source, tmp_path):
    done = export.write(source.folder, tmp_path / "fp8")
    found = tensors(tmp_path / "fp8")
    coded = {name for name in source.tensors if name.split(".")[-2] in IN_FP8}
    assert found.keys() == source.tensors.keys() | {name + "_scale_inv" for name in coded}
    for name, tensor in source.tensors.items():
        if name not in coded:
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
            continue
        codes, scales = quantize(tensor.float())
        assert torch.equal(found[name].view(torch.uint8), codes.view(torch.uint8))
        assert torch.equal(found[name + "_scale_inv"], scales)
        assert found[name + "_scale_inv"].dtype == torch.float32
    assert (done.fp8, done.kept, done.files, done.found) == (len(coded), len(source.tensors) - len(coded), 3, 0)


def test_files_are_laid_out_as_released(source, tmp_path):
    done = export.write(source.folder, tmp_path / "fp8")
    folder = tmp_path / "fp8"
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("quantization_config") == {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
    }  # fmt: skip
    assert config == source.config
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    assert index["weight_map"] == {name: file for file, shard in shards.items() for name in shard}
    sizes = [tensor.nbytes for shard in shards.values() for tensor in shard.values()]
    assert index["metadata"] == {"total_size": sum(sizes)}
    assert done.size == sum(sizes)
    assert index["weight_map"][EXPERT] == index["weight_map"][EXPERT + "_scale_inv"]
    for file in shards:
        with safe_open(folder / file, framework="pt") as handle:
            assert handle.metadata() == {"format": "pt"}
    assert (done.copied, done.left) == (
        ["configuration_deepseek.py", "tokenizer.json"],
        ["figures", "pytorch_model.bin"],
    )
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors.index.json", *done.copied, *shards,
    }  # fmt: skip
    assert not list(tmp_path.glob(".*"))


def test_load_pretrained_reads_what_codes_and_scales_stand_for(source, tmp_path):
    export.write(source.folder, tmp_path / "fp8")
    got, want = (load_pretrained(folder).state_dict() for folder in (tmp_path / "fp8", source.folder))
    stored = tensors(tmp_path / "fp8")
    t = lambda name: reference(stored[name], stored[name + "_scale_inv"], torch.float32)
    assert torch.equal(got["layers.1.attn.w_o"], t(MOVED))
    assert torch.equal(got["mtp.0.block.ffn.experts.w_gate_up"][3, 136:], t(EXPERT))
    for name, tensor in want.items():
        exact = name.rpartition(".")[2].startswith("w_")
        assert torch.equal(got[name], tensor) != exact
        assert (got[name] - tensor).norm() < 0.06 * tensor.norm()


def test_transformers_reads_the_same_values(tmp_path, monkeypatch):
    """Its own reader, which gives bfloat16 without a GPU; it takes no block that is not whole."""
    from transformers import DeepseekV3ForCausalLM

    # It asks for accelerate, and makes no use of it on a CPU.
    monkeypatch.setattr(f"{TRANSFORMERS}.is_accelerate_available", lambda: True)
    # It looks for the MTP layer of a 61-layer model only.
    monkeypatch.setattr(DeepseekV3ForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.2.*"])
    checkpoint = bf16(tmp_path / "bf16", **WHOLE)
    export.write(checkpoint.write(2), tmp_path / "fp8")
    theirs, info = DeepseekV3ForCausalLM.from_pretrained(
        tmp_path / "fp8", dtype=torch.bfloat16, output_loading_info=True
    )
    assert not info["missing_keys"]
    ours = load_pretrained(tmp_path / "fp8").state_dict()
    for name, tensor in renamed(theirs.state_dict()).items():
        assert torch.equal(tensor, ours[name].to(tensor.dtype)), name


def test_a_dense_model_is_measured_exported_and_read(tmp_path, monkeypatch):
    import transformers

    monkeypatch.setattr(f"{TRANSFORMERS}.is_accelerate_available", lambda: True)
    sizes = {"hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.Qwen2Config(vocab_size=50, num_hidden_layers=1, **sizes)
    transformers.Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "qwen")
    before = weights.measure(tmp_path / "qwen").as_json()
    assert {kind["kind"].rpartition(".")[2].removesuffix("_proj") for kind in before["kinds"]} == {
        "q", "k", "v", "o", "gate", "up", "down",
    }  # fmt: skip
    export.write(tmp_path / "qwen", tmp_path / "fp8")
    after = weights.measure(tmp_path / "fp8", tmp_path / "qwen").as_json()
    assert after["total"]["relative_error"] == before["total"]["relative_error"]
    ours = baselines.load_pretrained(tmp_path / "fp8").state_dict()
    theirs = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "fp8", dtype=torch.bfloat16).state_dict()
    down = theirs["model.layers.0.mlp.down_proj.weight"]
    assert down.dtype == torch.bfloat16
    assert torch.equal(down, ours["layers.0.ffn.w_down"].to(torch.bfloat16))
    assert torch.equal(theirs["lm_head.weight"], ours["head.weight"].to(torch.bfloat16))


def test_one_file_and_stacked_experts_become_released_tensors(source, tmp_path):
    t = source.tensors
    names = [f"model.layers.1.mlp.experts.{e}.down_proj.weight" for e in range(4)]
    apart = {name: t.pop(name) for name in names}
    t["model.layers.1.mlp.experts.down_proj"] = torch.stack(list(apart.values()))
    for path in source.folder.glob("*.safetensors*"):
        path.unlink()
    export.write(source.write(), tmp_path / "fp8")
    found = load_file(tmp_path / "fp8" / "model.safetensors")
    assert "model.layers.1.mlp.experts.down_proj" not in found
    for name, tensor in apart.items():
        assert torch.equal(found[name].view(torch.uint8), quantize(tensor.float())[0].view(torch.uint8))
    load_pretrained(tmp_path / "fp8")


def test_a_block_of_zeros_and_a_block_of_tiny_weights(source, tmp_path):
    w = source.tensors[MOVED]
    w[:128], w[128:] = 0, 1e-30
    source.write(3)
    export.write(source.folder, tmp_path / "fp8")
    got = load_pretrained(tmp_path / "fp8").layers[1].attn.w_o.detach()
    assert torch.equal(got[:128], torch.zeros(128, 15))
    torch.testing.assert_close(got[128:], w[128:].float(), rtol=1e-6, atol=0)


def cut_short(monkeypatch, name):
    """Makes the export end at a tensor, as by a signal; returns the names of all that are written."""
    put, seen = TensorFile.put, []

    def ending(self, tensor, values):
        seen.append(tensor)
        if tensor == name:
            raise KeyboardInterrupt
        put(self, tensor, values)

    monkeypatch.setattr(TensorFile, "put", ending)
    return seen


def test_an_export_cut_short_leaves_nothing_that_looks_whole_and_is_gone_on_with(source, tmp_path, monkeypatch):
    whole = export.write(source.folder, tmp_path / "whole")
    last = sorted(source.tensors)[-1]
    with monkeypatch.context() as patch:
        cut_short(patch, last)
        with pytest.raises(KeyboardInterrupt):
            export.write(source.folder, tmp_path / "fp8")
    assert not (tmp_path / "fp8").exists()
    partial = tmp_path / ".fp8.partial"
    assert {path.name for path in partial.iterdir()} == {
        ".lock", ".source.json", "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
    }  # fmt: skip
    for read in (load_pretrained, weights.measure):
        with pytest.raises(BadInput):
            read(partial)
    with monkeypatch.context() as patch:
        seen = cut_short(patch, "")
        done = export.write(source.folder, tmp_path / "fp8")
    assert done.found == 2
    first = {name for name in tensors(tmp_path / "fp8") if name in source.tensors} - {*seen}
    assert first == {*load_file(source.folder / "model-00001-of-00003.safetensors"),
                     *load_file(source.folder / "model-00002-of-00003.safetensors")}  # fmt: skip
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "fp8" / path.name).read_bytes() == path.read_bytes()
    assert not partial.exists()
    assert whole.found == 0


def test_an_export_of_other_weights_is_not_gone_on_with(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        cut_short(patch, sorted(source.tensors)[-1])
        with pytest.raises(KeyboardInterrupt):
            export.write(source.folder, tmp_path / "fp8")
    source.write(3)
    os.utime(source.folder / "model-00001-of-00003.safetensors", ns=(1, 1))
    assert ".fp8.partial: holds an export of other weights, cut short" in refused(source.folder, tmp_path / "fp8")
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "mine").write_text("")
    assert ".a.partial: is there, and no export has written it" in refused(source.folder, tmp_path / "a")
    assert (tmp_path / ".a.partial" / "mine").exists()


def test_two_exports_do_not_write_one_folder(source, tmp_path, monkeypatch):
    put = TensorFile.put

    def another(self, name, values):
        assert "is being written by another export" in refused(source.folder, tmp_path / "fp8")
        put(self, name, values)

    monkeypatch.setattr(TensorFile, "put", another)
    export.write(source.folder, tmp_path / "fp8")
    load_pretrained(tmp_path / "fp8")


def refused(*arguments):
    """The one line."""
    with pytest.raises(BadInput) as caught:
        export.write(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused(source, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    export.write(source.folder, tmp_path / "empty")  # an empty folder is taken
    assert "empty: is there already; expected a new folder, or an empty one" in refused(
        source.folder, tmp_path / "empty"
    )
    assert "is there already" in refused(source.folder, source.folder)
    assert "tensor 'model.layers.0.mlp.down_proj.weight': is FP8 already" in refused(tmp_path / "empty", tmp_path / "a")
    assert "none: is no folder" in refused(tmp_path / "none", tmp_path / "a")
    assert "the folder's name is empty" in refused(source.folder, "")
    (tmp_path / "file").write_text("")
    assert "file: is there already" in refused(source.folder, tmp_path / "file")
    assert "file/a: cannot be written (File exists)" in refused(source.folder, tmp_path / "file" / "a")
    source.tensors[MOVED][139, 14] = float("inf")
    source.write(3)
    assert f"tensor '{MOVED}': holds values that are infinite" in refused(source.folder, tmp_path / "b")
    assert not list(tmp_path.glob("*b*.partial"))
    source.tensors[MOVED][139, 14] = 0
    source.tensors["model.norm.weight"][0] = float("nan")
    source.write(3)
    assert "tensor 'model.norm.weight': holds NaN" in refused(source.folder, tmp_path / "c")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert "d: cannot be written (0.001 GB are needed, 0.000 GB are free)" in refused(source.folder, tmp_path / "d")
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"bf16", "empty", "file"}


def test_a_file_of_tensors_is_whole_or_not_there(tmp_path):
    entries = [Entry("odd", "F8_E4M3", (3,)), Entry("wide", "F32", (2, 2)), Entry("none", "BF16", (0, 4))]
    wide = torch.randn(2, 2)
    with TensorFile(tmp_path / "a.safetensors", entries) as file:
        file.put("odd", torch.ones(3).to(torch.float8_e4m3fn))
        file.put("wide", wide[:1])  # in parts
        file.put("wide", wide[1:])
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["wide"], wide)
    assert (found["odd"].float().tolist(), found["none"].shape) == ([1, 1, 1], (0, 4))
    with pytest.raises(ValueError, match="odd is not whole"), TensorFile(tmp_path / "b.safetensors", entries):
        pass
    with pytest.raises(ValueError, match="4 bytes too many"), TensorFile(tmp_path / "c.safetensors", entries) as file:
        file.put("odd", torch.ones(7).to(torch.float8_e4m3fn))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
