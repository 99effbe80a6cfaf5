"""The whole model: cached paths equal the uncached, gradients reach everything, 671B runs without weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from v3bench.kernels.ops import REFERENCE
from v3bench.model_ref import config as config_module
from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model

from .tiny import config

PRESETS = Path(config_module.__file__).parent / "presets"
OPTIONS = {
    "V3": {},
    "V3, biased, tied, stretched": {
        "attention_bias": True,
        "tie_word_embeddings": True,
        "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "mscale_all_dim": 1.0},
    },
    "V2": {"model_type": "deepseek_v2", "topk_method": "group_limited_greedy", "n_shared_experts": 2},
    "V2-Lite": {"model_type": "deepseek_v2", "q_lora_rank": None, "n_group": 1, "topk_group": 1},
    "all dense": {"first_k_dense_replace": 3},
}


def model_of(**changes: object) -> Model:
    return Model(config(**({"initializer_range": 0.2} | changes)), dtype=torch.float64)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("chunks", [[4, 1, 1, 1, 1, 1, 1], [1, 5, 4], [7, 3], [10]])
def test_cached_decoding_equals_the_whole_sequence(name: str, chunks: list[int]) -> None:
    model, ids = model_of(**OPTIONS[name]), torch.randint(0, 61, (3, 10))
    want = model(ids)
    assert want.abs().max() > 0.1
    got, cache = model.prefill(ids[:, : chunks[0]])
    parts, start = [got], chunks[0]
    for n in chunks[1:]:
        parts.append(model.decode(ids[:, start : start + n], cache))
        start += n
    torch.testing.assert_close(torch.cat(parts, 1), want)
    assert cache.lengths.tolist() == [10] * 3


def test_rows_of_different_lengths_decode_as_if_alone() -> None:
    model, ids = model_of(), torch.randint(0, 61, (3, 12))
    starts = [5, 2, 7]
    logits, cache = model.prefill(ids[:, :7], lengths=torch.tensor(starts))
    want = [model(ids[b : b + 1, : n + 5])[0] for b, n in enumerate(starts)]
    for b, n in enumerate(starts):
        torch.testing.assert_close(logits[b, :n], want[b][:n])
    at = 0
    for n in (1, 3, 1):
        step = torch.stack([ids[b, s + at : s + at + n] for b, s in enumerate(starts)])
        got = model.decode(step, cache)
        for b, s in enumerate(starts):
            torch.testing.assert_close(got[b], want[b][s + at : s + at + n])
        at += n
    assert cache.lengths.tolist() == [s + 5 for s in starts]


def test_truncated_tokens_leave_no_trace() -> None:
    model, ids = model_of(), torch.randint(0, 61, (2, 10))
    want = model(ids)
    _, cache = model.prefill(ids[:, :6])
    model.decode(torch.randint(0, 61, (2, 3)), cache)
    cache.truncate([6, 4])
    got = model.decode(torch.stack((ids[0, 6:9], ids[1, 4:7])), cache)
    torch.testing.assert_close(got, torch.stack((want[0, 6:9], want[1, 4:7])))


def test_cache_grows_while_decoding_and_keeps_to_a_fixed_size() -> None:
    model, ids = model_of(), torch.randint(0, 61, (1, 9))
    _, cache = model.prefill(ids[:, :2], capacity=3)
    got = torch.cat([model.decode(ids[:, i : i + 1], cache) for i in range(2, 9)], 1)
    torch.testing.assert_close(got, model(ids)[:, 2:])
    fixed = model.new_cache(1, 4, grows=False)
    model.decode(ids[:, :4], fixed)
    with pytest.raises(BadInput, match="exceed the capacity"):
        model.decode(ids[:, 4:5], fixed)
    assert fixed.lengths.tolist() == [4]


def test_a_cache_goes_from_mode_to_mode_and_keeps_no_graph() -> None:
    model, ids = model_of(), torch.randint(0, 61, (2, 8))
    with torch.inference_mode():
        _, cache = model.prefill(ids[:, :3], capacity=4)
    got = [model.decode(ids[:, 3:4], cache)]
    with torch.inference_mode():
        got.append(model.decode(ids[:, 4:6], cache))
    got.append(model.decode(ids[:, 6:], cache))
    torch.testing.assert_close(torch.cat(got, 1), model(ids)[:, 3:])
    assert not any(layer.requires_grad for layer in cache.layers)


def test_decode_refuses_another_number_of_rows() -> None:
    model = model_of()
    _, cache = model.prefill(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(BadInput, match=r"expected \(2, n\)"):
        model.decode(torch.zeros(1, 1, dtype=torch.int64), cache)


@pytest.mark.parametrize("name", OPTIONS)
def test_both_sets_of_operations_agree(name: str) -> None:
    fast = model_of(**OPTIONS[name])
    plain = Model(fast.config, ops=REFERENCE, dtype=torch.float64)
    plain.load_state_dict(fast.state_dict())
    ids = torch.randint(0, 61, (2, 7))
    torch.testing.assert_close(fast(ids), plain(ids))
    _, cache = fast.prefill(ids[:, :5], lengths=[5, 3])
    _, other = plain.prefill(ids[:, :5], lengths=[5, 3])
    torch.testing.assert_close(fast.decode(ids[:, 5:], cache), plain.decode(ids[:, 5:], other))


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = model_of(num_nextn_predict_layers=2, **OPTIONS[name])
    # Enough tokens for every expert to be chosen.
    model.loss(torch.randint(0, 61, (4, 64)), balance_weight=0.01).total.backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert missing == []
    for name_, parameter in model.named_parameters():
        if "experts" in name_:
            assert (parameter.grad.flatten(1) != 0).any(1).all(), name_  # type: ignore[union-attr]


def test_gradients_equal_finite_differences() -> None:
    """Along a random direction of all parameters at once; routing does not change within the step."""
    model, ids = model_of(num_nextn_predict_layers=1), torch.randint(0, 61, (2, 9))
    parameters = list(model.parameters())
    direction = [torch.randn_like(p) for p in parameters]

    def loss() -> torch.Tensor:
        return model.loss(ids, mtp_weight=0.3, balance_weight=0.1).total

    loss().backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, direction, strict=True))  # type: ignore[operator]
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * step * d
            values.append(loss().item())
            for p, d in zip(parameters, direction, strict=True):
                p -= sign * step * d
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_loss_reports_loads_and_biases_follow_them() -> None:
    model, ids = model_of(num_nextn_predict_layers=1), torch.randint(0, 61, (2, 9))
    loads = model.loss(ids).loads
    assert loads.shape == (3, 16)  # two MoE layers and the MTP module
    assert loads.sum(1).tolist() == [16 * 4, 16 * 4, 14 * 4]
    model.update_biases(loads, 0.5)
    for block, load in zip(model.moe_blocks(), loads.double(), strict=True):
        assert torch.equal(block.gate.e_score_correction_bias, 0.5 * (load.mean() - load).sign())


def test_training_learns() -> None:
    model = Model(config(num_nextn_predict_layers=1), mtp=True)
    model.reset_parameters(torch.Generator().manual_seed(0))
    ids = torch.arange(12).repeat(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model.loss(ids, mtp_weight=0.3)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append((loss.main.item(), loss.mtp.item()))
    assert losses[-1][0] < 0.7 * losses[0][0]
    assert losses[-1][1] < 0.8 * losses[0][1]


def test_initial_weights_have_the_configs_spread_and_repeat() -> None:
    model = Model(config(initializer_range=0.37))
    model.reset_parameters(torch.Generator().manual_seed(5))
    again = Model(config(initializer_range=0.37))
    again.reset_parameters(torch.Generator().manual_seed(5))
    for (name, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
        if a.numel() > 500:
            assert a.std().item() == pytest.approx(0.37, rel=0.1), name
        if name.endswith("norm.weight"):
            assert (a == 1).all()


def parameters_and_buffers(model: Model) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def test_671b_builds_and_runs_without_weights() -> None:
    model = Model(Config.from_file(PRESETS / "deepseek-v3.json"), device="meta", dtype=torch.bfloat16)
    total = sum(t.numel() for name, t in parameters_and_buffers(model) if not name.startswith("mtp."))
    assert total == 671_026_419_200
    ids = torch.zeros(1, 4096, dtype=torch.int64, device="meta")
    logits, cache = model.prefill(ids)
    assert (logits.shape, logits.dtype) == ((1, 4096, 129280), torch.bfloat16)
    assert cache.nbytes == 4096 * 70272
    assert model.decode(ids[:, :1], cache).shape == (1, 1, 129280)
    model.loss(ids[:, :33]).total.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.json")), ids=lambda path: path.stem)
def test_every_preset_runs_without_weights(path: Path) -> None:
    c = Config.from_file(path)
    model = Model(c, device="meta", dtype=torch.bfloat16)
    assert model(torch.zeros(2, 5, dtype=torch.int64, device="meta")).shape == (2, 5, c.vocab_size)
    assert len(model.mtp) == c.num_nextn_predict_layers


def test_bfloat16_agrees_with_float32_to_its_rounding() -> None:
    model = Model(config(initializer_range=0.1))
    half = Model(model.config, dtype=torch.bfloat16)
    half.load_state_dict(model.state_dict())
    model.load_state_dict({name: t.to(torch.float32) for name, t in half.state_dict().items()})
    ids = torch.randint(0, 61, (2, 6))
    want, got = model(ids), half(ids)
    assert got.dtype == torch.bfloat16
    # A rounding may turn a choice of experts, so most logits are compared, not all.
    assert ((got.float() - want).abs() < 0.05 * want.abs().max()).float().mean() > 0.9


def test_loss_of_a_bfloat16_model_is_taken_in_float32() -> None:
    model = Model(config(num_nextn_predict_layers=1, initializer_range=0.1), dtype=torch.bfloat16)
    ids = torch.randint(0, 61, (2, 9))
    loss = model.loss(ids, balance_weight=0.5)
    assert {part.dtype for part in loss[:4]} == {torch.float32}
    logits = model(ids[:, :-1]).float()
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss.main, want, rtol=1e-6, atol=0)
    loss.total.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in model.parameters())


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "scoring_func": "softmax", "topk_method": "greedy"}])
def test_bfloat16_decoding_stays_close_to_its_full_forward(changes: dict[str, object]) -> None:
    # Every expert is chosen, so that a rounding cannot turn the choice.
    one = {"initializer_range": 0.1, "num_experts_per_tok": 8, "n_routed_experts": 8, "n_group": 1, "topk_group": 1}
    model = Model(config(**one, **changes), dtype=torch.bfloat16)
    ids = torch.randint(0, 61, (2, 12))
    want = model(ids).float()
    logits, cache = model.prefill(ids[:, :7])
    steps = [
        logits,
        model.decode(ids[:, 7:8], cache),
        model.decode(ids[:, 8:11], cache),
        model.decode(ids[:, 11:], cache),
    ]
    got = torch.cat(steps, dim=1)
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).abs().max() < 0.03 * want.abs().max()
