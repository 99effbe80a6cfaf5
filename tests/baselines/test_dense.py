"""The dense model: parity with transformers, and cached decoding equal to the full forward."""

from __future__ import annotations

import pytest
import torch
from v3bench.baselines import DenseConfig, load_pretrained
from v3bench.baselines.dense import Dense
from v3bench.kernels.ops import REFERENCE, TORCH
from v3bench.model_ref.errors import BadInput

SMALL = {
    "model_type": "llama",
    "vocab_size": 41,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
KINDS = {
    "MHA": {"num_key_value_heads": 8},
    "GQA": {},
    "MQA": {"num_key_value_heads": 1},
    "window": {"sliding_window": 4},
    "window in the middle": {
        "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "Qwen2": {"model_type": "qwen2"},
}


def model_of(changes, *, dtype=torch.float64, ops=TORCH):
    """A model whose every parameter, biases too, is random and large enough to matter."""
    model = Dense(DenseConfig.from_dict(SMALL | changes), ops=ops, dtype=dtype).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3, generator=random)
    return model


def tokens(*shape, seed=1):
    return torch.randint(0, SMALL["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=KINDS)
def model(request):
    return model_of(KINDS[request.param])


def test_cached_decoding_agrees_with_transformers(oracle, tmp_path):
    oracle.save_pretrained(tmp_path)
    model, ids = load_pretrained(tmp_path), tokens(2, 40)
    with torch.no_grad():
        want = oracle(ids).logits
        first, cache = model.prefill(ids[:, :17])
        later = [model.decode(ids[:, i : i + n], cache) for i, n in ((17, 1), (18, 1), (19, 4), (23, 16), (39, 1))]
    got = torch.cat([first, *later], dim=1)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()


@torch.no_grad()
def test_decoding_equals_the_full_forward(model):
    ids = tokens(3, 14)
    first, cache = model.prefill(ids[:, :5], capacity=6)
    parts = [first, *(model.decode(ids[:, i : i + 1], cache) for i in range(5, 9)), model.decode(ids[:, 9:], cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=1e-9, atol=1e-9)
    assert cache.lengths.tolist() == [14] * 3


@torch.no_grad()
def test_rows_of_different_lengths(model):
    ids, lengths = tokens(3, 12), [7, 3, 5]
    first, cache = model.prefill(ids[:, :7], lengths=lengths)
    more = tokens(3, 5, seed=2)
    stepwise = torch.cat([model.decode(more[:, :1], cache), model.decode(more[:, 1:], cache)], dim=1)
    for b, n in enumerate(lengths):
        whole = model(torch.cat([ids[b, :n], more[b]])[None])[0]
        torch.testing.assert_close(first[b, :n], whole[:n], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(stepwise[b], whole[n:], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_truncating_undoes_decoding(model):
    ids = tokens(2, 12)
    _, cache = model.prefill(ids[:, :6])
    model.decode(tokens(2, 4, seed=3), cache)
    cache.truncate(6)
    torch.testing.assert_close(model.decode(ids[:, 6:], cache), model(ids)[:, 6:], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_reference_operations_give_the_same(model):
    reference = Dense(model.config, ops=REFERENCE, dtype=torch.float64)
    reference.load_state_dict(model.state_dict())
    torch.testing.assert_close(reference(tokens(2, 9)), model(tokens(2, 9)), rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["window", "window in the middle"])
def test_a_window_hides_what_lies_before_it(kind):
    windowed, full = model_of(KINDS[kind]), model_of({})
    ids = tokens(1, 12)
    other = ids.clone()
    other[0, 0] = (ids[0, 0] + 1) % 41
    torch.testing.assert_close(windowed(ids)[:, :4], full(ids)[:, :4], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(windowed(ids)[:, 4:], full(ids)[:, 4:])
    if kind == "window":  # three layers reach back three tokens each
        torch.testing.assert_close(windowed(ids)[:, 10:], windowed(other)[:, 10:], rtol=1e-9, atol=1e-9)
        assert not torch.allclose(windowed(ids)[:, 9], windowed(other)[:, 9])


@torch.no_grad()
def test_grouped_queries_equal_repeated_keys_and_values():
    grouped, multi = model_of({}), model_of({"num_key_value_heads": 8})
    state = grouped.state_dict()
    for i in range(3):
        q, k, v = state[f"layers.{i}.attn.w_qkv"].split([32, 8, 8])
        repeated = [w.view(2, 4, 32).repeat_interleave(4, dim=0).reshape(32, 32) for w in (k, v)]
        state[f"layers.{i}.attn.w_qkv"] = torch.cat([q, *repeated])
    multi.load_state_dict(state)
    torch.testing.assert_close(multi(tokens(2, 9)), grouped(tokens(2, 9)), rtol=1e-9, atol=1e-9)


def test_the_cache_holds_keys_and_values_of_the_groups():
    cache = model_of({}, dtype=torch.bfloat16).new_cache(3, 10)
    assert cache.nbytes == 3 * 10 * 3 * (2 * 2 * 4) * 2  # rows, tokens, layers, (K and V) x groups x width, B


def test_the_cache_can_be_forbidden_to_grow():
    model = model_of({})
    cache = model.new_cache(1, 4, grows=False)
    model.decode(tokens(1, 4), cache)
    with pytest.raises(BadInput, match="5 tokens exceed the capacity 4"):
        model.decode(tokens(1, 1), cache)


def test_loss_is_the_mean_surprise_of_the_next_token(model):
    ids = tokens(2, 9)
    loss = model.loss(ids)
    chances = model(ids).softmax(-1)
    surprise = [-chances[b, i, ids[b, i + 1]].log() for b in range(2) for i in range(8)]
    torch.testing.assert_close(loss.main, torch.stack(surprise).mean())
    assert (loss.total, loss.mtp, loss.balance) == (loss.main, 0, 0)
    with pytest.raises(BadInput, match="1 tokens; expected at least 2"):
        model.loss(ids[:, :1])


def test_loss_of_a_bfloat16_model_is_taken_in_float32():
    model, ids = model_of({}, dtype=torch.bfloat16), tokens(2, 9)
    loss = model.loss(ids)
    assert {part.dtype for part in loss} == {torch.float32}
    logits = model(ids[:, :-1]).float()
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss.total, want, rtol=1e-6, atol=0)


def test_every_parameter_gets_a_gradient(model):
    model.loss(tokens(2, 9)).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_parameters_are_initialised_by_the_config():
    config = DenseConfig.from_dict(SMALL | {"initializer_range": 0.5, "attention_bias": True, "vocab_size": 500})
    model = Dense(config)
    assert abs(model.embed.weight.std().item() - 0.5) < 0.02
    assert (model.layers[0].attn_norm.weight == 1).all()
    assert (model.layers[0].attn.b_qkv == 0).all()
    model.reset_parameters(torch.Generator().manual_seed(7))
    again = Dense(config)
    again.reset_parameters(torch.Generator().manual_seed(7))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_the_meta_device_allocates_nothing():
    assert {p.device.type for p in Dense(DenseConfig.from_dict(SMALL), device="meta").parameters()} == {"meta"}
