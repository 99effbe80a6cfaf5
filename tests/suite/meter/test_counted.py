"""Formula equals count, as integers: every preset on the meta device, and random small models of both architectures."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.suite.accounting import describe
from v3bench.suite.laws import flops, params
from v3bench.suite.meter import counted
from v3bench.suite.meter.count import CountError, counting
from v3bench.suite.models import build, load, presets

MOE, DENSE = "deepseek-v3-tiny", "llama-3.1-8b"


def config(name, **keys):
    return load(name, keys)[1]


@st.composite
def latent_configs(draw):
    """Small models with MLA and experts; sizes differ from each other, so that a mix-up shows."""
    groups, per_group = draw(st.sampled_from([(1, 5), (2, 3), (4, 2)]))
    layers = draw(st.integers(1, 3))
    return config(
        MOE,
        hidden_size=draw(st.sampled_from([24, 40])),
        num_hidden_layers=layers,
        first_k_dense_replace=draw(st.integers(0, layers)),
        num_attention_heads=(heads := draw(st.integers(1, 3))),
        num_key_value_heads=heads,
        q_lora_rank=draw(st.sampled_from([None, 12])),
        kv_lora_rank=draw(st.sampled_from([16, 20])),
        qk_nope_head_dim=draw(st.sampled_from([6, 10])),
        qk_rope_head_dim=draw(st.sampled_from([4, 8])),
        v_head_dim=draw(st.sampled_from([5, 14])),
        intermediate_size=36,
        moe_intermediate_size=draw(st.sampled_from([7, 18])),
        n_routed_experts=groups * per_group,
        n_group=groups,
        topk_group=1,
        num_experts_per_tok=draw(st.integers(1, per_group)),
        n_shared_experts=draw(st.integers(0, 2)),
        topk_method=draw(st.sampled_from(["noaux_tc", "group_limited_greedy", "greedy"])),
        scoring_func=draw(st.sampled_from(["sigmoid", "softmax"])),
        tie_word_embeddings=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        vocab_size=50,
        num_nextn_predict_layers=draw(st.integers(0, 2)),
    )


@st.composite
def dense_configs(draw):
    """Small dense models: MHA, GQA, MQA, windows, biases, tied or not."""
    kind = draw(st.sampled_from([DENSE, "qwen2.5-7b"]))
    heads, key_heads = draw(st.sampled_from([(4, 4), (4, 2), (4, 1), (6, 2)]))
    keys = {
        "hidden_size": draw(st.sampled_from([24, 40])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": draw(st.sampled_from([6, 10])),
        "intermediate_size": draw(st.sampled_from([30, 52])),
        "tie_word_embeddings": draw(st.booleans()),
        "vocab_size": 50,
    }
    if kind == DENSE:
        keys |= {"mlp_bias": draw(st.booleans()), "attention_bias": draw(st.booleans())}
    else:
        window = draw(st.sampled_from([1, 3, 100]))
        keys |= {"use_sliding_window": draw(st.booleans()), "sliding_window": window, "max_window_layers": 1}
    return config(kind, **keys)


def check_everything(config, S, device):
    """Totals, and each part of them, against the formulas."""
    model = build(config, device=device, dtype=torch.float32)
    law = params.count(config)
    main, mtp = counted.stored(model)
    assert main == {part: n for part, n in law.parts.items() if n}
    assert mtp == {part: n for part, n in law.mtp_parts.items() if n}
    forward = counted.prefill(model, S)
    assert forward.by_part == {part: n for part, n in flops.forward_parts(config, S).items() if n}
    assert forward.total == flops.forward(config, S)
    assert forward.total_full == flops.forward(config, S, causal=False)
    if S > 1:
        assert counted.decode(model, S).by_part == {part: n for part, n in flops.decode_parts(config, S).items() if n}
    if mtp:
        assert counted.mtp(model, S + 1).total == counted.mtp_formula(config, S + 1)
    return model


@pytest.mark.parametrize("preset", presets())
def test_every_preset(preset):
    name, config = load(preset)
    got = describe(name, config, 4096, count=True)
    assert [check for check in got["counted"]["checks"] if not check["agrees"]] == []
    assert got["counted"]["agrees"]
    assert len(got["counted"]["checks"]) >= 7
    parts = got["counted"]["flops_by_part"]["prefill_causal"]
    assert parts == {part: n for part, n in flops.forward_parts(config, 4096).items() if n}


@pytest.mark.parametrize("seq_len", [1, 2, 4097])
def test_odd_lengths_and_windows(seq_len):
    window = {"use_sliding_window": True, "sliding_window": 1000, "max_window_layers": 20}
    for preset, keys in ((MOE, {"num_nextn_predict_layers": 2}), ("qwen2.5-7b", window)):
        got = describe(*load(preset, keys), seq_len, count=True)
        assert [check for check in got["counted"]["checks"] if not check["agrees"]] == []


@settings(deadline=None, max_examples=25)
@given(latent_configs(), st.integers(1, 9), st.sampled_from(["cpu", "meta"]))
def test_random_latent_models(config, S, device):
    check_everything(config, S, device)


@settings(deadline=None, max_examples=25)
@given(dense_configs(), st.integers(1, 9), st.sampled_from(["cpu", "meta"]))
def test_random_dense_models(config, S, device):
    check_everything(config, S, device)


@pytest.mark.parametrize("preset, device", [(MOE, "cpu"), (MOE, "meta"), ("small dense", "cpu")])
def test_training_is_three_forwards(preset, device):
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
    }
    c = config(MOE) if preset == MOE else config(DENSE, **small, head_dim=8, intermediate_size=48)
    model = build(c, device=device, dtype=torch.float32)
    with counting(model, counted.multiplied_in) as count:
        model(torch.zeros(2, 12, dtype=torch.int64, device=device)).sum().backward()
    assert count.total == 2 * flops.train(c, 12)
    assert count.total_full == 2 * flops.train(c, 12, causal=False)
    assert count.by_operation["attention_backward"] == 2 * count.by_operation["attention"]


def test_a_training_step_with_mtp():
    """Main model over T tokens and the module over T-1, each three times its forward."""
    c, T = config(MOE), 10
    model = build(c, dtype=torch.float32)
    with counting(model, counted.multiplied_in) as count:
        model.loss(torch.randint(c.vocab_size, (2, T + 1))).total.backward()
    assert count.total == 2 * (flops.train(c, T) + 3 * counted.mtp_formula(c, T - 1))


def test_one_expert_less_and_the_head_change_the_count_by_exactly_their_products():
    c = config("deepseek-v3")
    fewer = c.replace(num_experts_per_tok=c.num_experts_per_tok - 1)
    whole, less = (counted.prefill(build(x, device="meta", mtp=False), 512) for x in (c, fewer))
    one_expert = 512 * 58 * 3 * 2 * 7168 * 2048
    assert whole.total - less.total == whole.by_part["routed_experts"] - less.by_part["routed_experts"] == one_expert
    model = build(c, device="meta", mtp=False)
    with counting(model, counted.multiplied_in) as headless, torch.no_grad():
        model.hidden(torch.zeros(1, 512, dtype=torch.int64, device="meta"))
    assert whole.total - headless.total == 2 * 512 * 129280 * 7168


def test_a_layer_that_hides_its_products_stops_the_count():
    c = config(MOE)
    model = build(c, device="meta", mtp=False)
    hidden = torch.library.Library("v3bench_test_counted", "DEF")
    hidden.define("linear(Tensor x, Tensor w) -> Tensor")
    hidden.impl("linear", lambda x, w: x.new_empty(*x.shape[:-1], w.shape[0]), "Meta")
    model.logits = lambda h: torch.ops.v3bench_test_counted.linear(h, model.head.weight)
    with pytest.raises(CountError, match=r"v3bench_test_counted.linear.*\(1, 16, 64\).*\(256, 64\)"):
        counted.prefill(model, 16)


def test_a_parameter_of_no_known_role_stops_the_count():
    with pytest.raises(CountError, match="surprise"):
        counted.role("surprise.weight")


def test_batches_and_prompts_of_a_cache_cost_what_they_are():
    c = config(MOE)
    model = build(c, dtype=torch.float32)
    assert counted.prefill(model, 7, batch=3).total == 3 * flops.forward(c, 7)
    assert counted.decode(model, 7, batch=3).total == 3 * flops.decode(c, 7)
    with counting(model) as count, torch.no_grad():
        model.prefill(torch.zeros(1, 7, dtype=torch.int64))
    assert count.total == flops.forward(c, 7)
