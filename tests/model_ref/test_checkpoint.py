"""Every released tensor lands where it belongs; models saved by transformers give its logits."""

from __future__ import annotations

import pytest
import torch
from v3bench.model_ref import BadInput, load_pretrained

from .tiny import RAW

TINY = {key: value for key, value in RAW.items() if key not in ("model_type", "rms_norm_eps", "rope_theta")}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16,
}
CASES = {
    "V3": ("DeepseekV3", {}),
    "V3 with YaRN": ("DeepseekV3", {"rope_parameters": YARN}),
    "V3 with biases": ("DeepseekV3", {"attention_bias": True}),
    "V3 without query latent": ("DeepseekV3", {"q_lora_rank": None}),
    "V3 with rotary halves": ("DeepseekV3", {"rope_interleave": False, "attention_bias": True}),
    "V3 with rotary halves, without query latent": ("DeepseekV3", {"rope_interleave": False, "q_lora_rank": None}),
    "V3 tied": ("DeepseekV3", {"tie_word_embeddings": True}),
    "V3 with three shared experts": ("DeepseekV3", {"n_shared_experts": 3}),
    "V3 without shared experts": ("DeepseekV3", {"n_shared_experts": 0}),
    "V3 all dense": ("DeepseekV3", {"first_k_dense_replace": 3}),
    "V2": ("DeepseekV2", {"topk_method": "group_limited_greedy"}),
    "V2-Lite": ("DeepseekV2", {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "n_shared_experts": 2}),
    "V2 ungrouped, with YaRN": ("DeepseekV2", {"n_group": None, "topk_group": None, "rope_parameters": YARN}),
}


def theirs(kind, changes, seed=0):
    """transformers' model with random weights large enough for every path to move the logits."""
    import transformers

    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**TINY | changes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.normal_(1.0 if "norm" in name else 0.0, 0.15)
    return model


def assert_same_logits(model, oracle):
    ids = torch.randint(0, TINY["vocab_size"], (2, 21), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = oracle(ids).logits
        got = model(ids)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # transformers' own shared experts of width 0
@pytest.mark.parametrize("case", CASES)
def test_a_folder_saved_by_transformers_gives_its_logits(case, tmp_path):
    oracle = theirs(*CASES[case])
    oracle.save_pretrained(tmp_path)
    assert_same_logits(load_pretrained(tmp_path), oracle)


@pytest.mark.parametrize(
    "options", [{"max_shard_size": "60KB"}, {"save_original_format": False}], ids=["shards", "stacked"]
)
def test_shards_and_stacked_experts(options, tmp_path):
    oracle = theirs("DeepseekV3", {})
    oracle.save_pretrained(tmp_path, **options)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == ("max_shard_size" in options)
    assert_same_logits(load_pretrained(tmp_path), oracle)


def test_kimi_k2_is_read_as_v3(released):
    folder = released(model_type="kimi_k2").write()
    assert load_pretrained(folder).config.model_type == "kimi_k2"


@pytest.mark.parametrize("shards", [1, 4])
def test_every_tensor_lands_in_its_place(released, shards):
    checkpoint = released(mtp=True)
    model = load_pretrained(checkpoint.write(shards))
    state, t = model.state_dict(), checkpoint.tensors
    assert sum(tensor.numel() for tensor in state.values()) == sum(tensor.numel() for tensor in t.values())
    joined = torch.cat([t["model.layers.0.mlp.gate_proj.weight"], t["model.layers.0.mlp.up_proj.weight"]])
    torch.testing.assert_close(state["layers.0.ffn.w_gate_up"], joined, rtol=0, atol=0)
    for prefix, ours in (("model.layers.1.", "layers.1."), ("model.layers.2.", "mtp.0.block.")):
        for e in range(4):
            parts = [t[f"{prefix}mlp.experts.{e}.{part}_proj.weight"] for part in ("gate", "up")]
            torch.testing.assert_close(state[ours + "ffn.experts.w_gate_up"][e], torch.cat(parts), rtol=0, atol=0)
        bias = t[prefix + "mlp.gate.e_score_correction_bias"]
        torch.testing.assert_close(state[ours + "ffn.gate.e_score_correction_bias"], bias, rtol=0, atol=0)
        torch.testing.assert_close(state[ours + "attn.w_o"], t[prefix + "self_attn.o_proj.weight"], rtol=0, atol=0)
    torch.testing.assert_close(state["mtp.0.eh_proj.weight"], t["model.layers.2.eh_proj.weight"], rtol=0, atol=0)
    torch.testing.assert_close(state["mtp.0.norm.weight"], t["model.layers.2.shared_head.norm.weight"], rtol=0, atol=0)
    torch.testing.assert_close(state["mtp.0.enorm.weight"], t["model.layers.2.enorm.weight"], rtol=0, atol=0)


def test_mtp_layers_are_the_ones_behind_the_last(released):
    checkpoint = released(mtp=True, num_nextn_predict_layers=2)
    model = load_pretrained(checkpoint.write())
    assert len(model.mtp) == 2
    for k in range(2):
        want = checkpoint.tensors[f"model.layers.{2 + k}.hnorm.weight"]
        torch.testing.assert_close(model.mtp[k].hnorm.weight.detach(), want, rtol=0, atol=0)


def test_without_mtp_tensors_there_is_no_mtp(released):
    checkpoint = released(mtp=False, num_nextn_predict_layers=1)
    checkpoint.tensors["model.layers.2.self_attn.rotary_emb.inv_freq"] = torch.ones(2)  # no weight
    assert len(load_pretrained(checkpoint.write()).mtp) == 0


def test_an_mtp_layer_predicts_what_transformers_reads_it_to_predict(released, monkeypatch):
    from transformers import DeepseekV3ForCausalLM
    from transformers.modeling_layers import MtpModel

    # transformers looks for the MTP layer of a 61-layer model only.
    monkeypatch.setattr(DeepseekV3ForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.2.*"])
    folder = released(mtp=True, moe_intermediate_size=8).write()  # its grouped GEMM wants multiples of 16 bytes
    main = DeepseekV3ForCausalLM.from_pretrained(folder).eval()
    oracle, model = MtpModel.from_pretrained(main).eval(), load_pretrained(folder)
    ids = torch.randint(0, 37, (2, 13), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        h = main.model(ids).last_hidden_state
        want = main.lm_head(oracle.forward_layer(0, h[:, :-2], torch.arange(11)[None], None, input_ids=ids[:, 1:-1]))
        got = model.logits(next(model.further(model.hidden(ids), ids)))
    assert (got - want).abs().max() < 1e-4 * want.abs().max()


def test_shared_copies_of_the_mtp_layer_are_accepted(released):
    checkpoint = released(mtp=True, dtype=torch.bfloat16)
    checkpoint.tensors["model.layers.2.embed_tokens.weight"] = checkpoint.tensors["model.embed_tokens.weight"].clone()
    checkpoint.tensors["model.layers.2.shared_head.head.weight"] = checkpoint.tensors["lm_head.weight"].clone()
    assert len(load_pretrained(checkpoint.write()).mtp) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_widens_exactly(released, dtype):
    checkpoint = released(dtype=dtype)
    model = load_pretrained(checkpoint.write())
    assert model.head.weight.dtype == torch.float32
    torch.testing.assert_close(model.head.weight.detach(), checkpoint.tensors["lm_head.weight"].float(), rtol=0, atol=0)


def test_dtype_is_the_models_but_the_balancing_bias_stays_float32(released):
    model = load_pretrained(released().write(), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in model.buffers()} == {torch.float32}


BLOCK = (8, 16)  # divides no side of the small model evenly


def quantise(weight, block=BLOCK):
    """(codes, scales): each block scaled so that its largest value is e4m3's largest, 448."""
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    grid = [range(0, size, step) for size, step in zip(weight.shape, block, strict=True)]
    scales = torch.empty([len(steps) for steps in grid])
    for a, i in enumerate(grid[0]):
        for b, j in enumerate(grid[1]):
            tile = slice(i, i + block[0]), slice(j, j + block[1])
            scales[a, b] = weight[tile].abs().max() / 448
            codes[tile] = (weight[tile] / scales[a, b]).to(torch.float8_e4m3fn)
    return codes, scales


def in_fp8(checkpoint):
    """The checkpoint with FP8 projections, as V3 is released: norms, gates, embedding and head stay."""
    checkpoint.config["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": list(BLOCK),
    }
    for name in [name for name in checkpoint.tensors if "_proj" in name and "eh_proj" not in name]:
        codes, scales = quantise(checkpoint.tensors[name])
        checkpoint.tensors |= {name: codes, name + "_scale_inv": scales}
    return checkpoint


def test_fp8_blocks_are_dequantised(released):
    plain = released(mtp=True)
    original = dict(plain.tensors)
    checkpoint = in_fp8(plain)
    state = load_pretrained(checkpoint.write(3)).state_dict()
    for ours, name in (
        ("layers.1.attn.w_ukv", "model.layers.1.self_attn.kv_b_proj.weight"),
        ("mtp.0.block.attn.w_dkv", "model.layers.2.self_attn.kv_a_proj_with_mqa.weight"),
    ):
        codes, scales = checkpoint.tensors[name].float(), checkpoint.tensors[name + "_scale_inv"]
        want = torch.empty_like(codes)
        for m in range(codes.shape[0]):
            for n in range(codes.shape[1]):
                want[m, n] = codes[m, n] * scales[m // BLOCK[0], n // BLOCK[1]]
        torch.testing.assert_close(state[ours], want, rtol=0, atol=0)
        # e4m3 has 3 mantissa bits: half a unit is 1/16 of the value, or 1/1024 of the block's largest near zero.
        limit = original[name].abs() / 16 + original[name].abs().max() * 2**-9 / 448
        assert ((state[ours] - original[name]).abs() <= limit).all()


def test_stacked_fp8_experts(released):
    checkpoint = in_fp8(released())
    prefix, t = "model.layers.1.mlp.experts.", checkpoint.tensors
    want = load_pretrained(checkpoint.write()).layers[1].ffn.experts.w_down.detach().clone()
    # w_down's rows and columns are blocked alike in both layouts; gate and up stay apart in the released one.
    down = [f"{prefix}{e}.down_proj.weight" for e in range(4)]
    stacked = {prefix + "down_proj": torch.stack([t.pop(name) for name in down])}
    stacked[prefix + "down_proj_scale_inv"] = torch.stack([t.pop(name + "_scale_inv") for name in down])
    t |= stacked
    got = load_pretrained(checkpoint.write()).layers[1].ffn.experts.w_down.detach()
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_a_dense_file_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BadInput, match=r"model_type 'llama' is not understood; expected deepseek_v3 or"):
        load_pretrained(tmp_path)
