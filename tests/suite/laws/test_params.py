"""Parameter counts: the figures of the released models, and properties of any config."""

import pytest
from v3bench.suite.laws import params
from v3bench.suite.models import build, load, presets
from v3bench.suite.train import proxies

# preset -> stored, read per token, the same without the input embedding, MTP's own
KNOWN = {
    "deepseek-v3": (671_026_419_200, 37_552_297_472, 36_625_618_432, 11_610_068_224),
    "deepseek-v2": (235_741_434_880, 21_375_800_320, 20_851_512_320, 0),
    "deepseek-v2-lite": (15_706_484_224, 2_661_150_208, 2_451_435_008, 0),
    "llama-3.1-8b": (8_030_261_248, 8_030_261_248, 7_504_924_672, 0),
    "llama-3.1-70b": (70_553_706_496, 70_553_706_496, 69_503_033_344, 0),
    "llama-3.1-405b": (405_853_388_800, 405_853_388_800, 403_752_042_496, 0),
    "qwen2.5-7b": (7_615_616_512, 7_615_616_512, 7_070_619_136, 0),
    "qwen2.5-72b": (72_706_203_648, 72_706_203_648, 71_460_495_360, 0),
}


@pytest.mark.parametrize("preset", KNOWN)
def test_released_models(preset):
    got = params.count(load(preset)[1])
    assert (got.total, got.activated, got.activated_without_input_embedding, got.mtp) == KNOWN[preset]


def test_the_other_counts_printed_for_v3():
    v3 = params.count(load("deepseek-v3")[1])
    assert v3.matmul_without_router == 36_518_166_528
    assert v3.matmul - v3.matmul_without_router == 58 * 256 * 7168
    assert v3.mtp - v3.mtp_parts["mtp_projection"] == 11_507_307_776
    assert v3.mtp_activated == 2_541_458_688
    assert v3.mtp_activated - v3.mtp_active["mtp_projection"] == 2_438_698_240


@pytest.mark.parametrize("preset", presets())
def test_parts_add_up(preset):
    got = params.count(load(preset)[1])
    assert sum(got.parts.values()) == got.total
    assert sum(got.active.values()) == got.activated
    assert sum(got.mtp_parts.values()) == got.mtp
    assert all(0 <= got.active[part] <= got.parts[part] for part in params.PARTS)


@pytest.mark.parametrize("preset", ["deepseek-v3-tiny", "llama-3.1-8b"])
def test_a_tied_matrix_is_stored_once_and_stays_the_head(preset):
    config = load(preset)[1]
    table = config.vocab_size * config.hidden_size
    free, tied = params.count(config), params.count(config.replace(tie_word_embeddings=True))
    assert tied.total == free.total - table
    assert tied.activated == tied.activated_without_input_embedding == free.activated_without_input_embedding
    assert tied.matmul == free.matmul


def test_one_expert_less_per_token_takes_three_matrices_from_every_mixture_layer():
    config = load("deepseek-v3")[1]
    fewer = config.replace(num_experts_per_tok=config.num_experts_per_tok - 1)
    assert params.count(config).activated - params.count(fewer).activated == 58 * 3 * 7168 * 2048
    assert params.count(config).total == params.count(fewer).total


def test_the_selection_bias_is_stored_where_the_method_has_one():
    config = load("deepseek-v3-tiny")[1]
    without = config.replace(topk_method="greedy")
    bias = config.num_moe_layers * config.n_routed_experts
    assert params.count(config).total - params.count(without).total == bias
    assert params.count(config).mtp - params.count(without).mtp == config.n_routed_experts


def test_biases_of_attention_and_ffn_are_counted():
    v3, llama = load("deepseek-v3-tiny")[1], load("llama-3.1-8b")[1]
    per_layer = v3.q_lora_rank + v3.kv_lora_rank + v3.qk_rope_head_dim + v3.hidden_size
    assert params.count(v3.replace(attention_bias=True)).parts["biases"] == v3.num_hidden_layers * per_layer
    assert params.count(llama.replace(mlp_bias=True)).parts["biases"] == 32 * (2 * 14336 + 4096)
    assert params.count(load("qwen2.5-7b")[1]).parts["biases"] == 28 * (28 + 2 * 4) * 128


def test_a_model_without_experts_drafts_without_them():
    raw = load("deepseek-v3-small", {"first_k_dense_replace": 4})[1]
    found = params.count(raw)
    modules = build(raw, device="meta")
    assert not raw.mtp_is_moe
    assert found.mtp == sum(p.numel() for p in modules.mtp.parameters())
    assert found.mtp_parts["routed_experts"] == found.mtp_active["routed_experts"] == 0
    assert found.mtp_parts["dense_ffn"] == 3 * raw.hidden_size * raw.intermediate_size


def test_the_dense_proxy_activates_as_much_as_the_one_with_experts():
    sparse, dense = (params.count(proxies.read(name).config) for name in ("mtp-v3", "mtp-dense"))
    assert dense.activated == pytest.approx(sparse.activated, rel=0.02)
    assert not dense.parts["routed_experts"]
