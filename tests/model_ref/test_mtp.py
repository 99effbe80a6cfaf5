"""MTP: wiring and training loss, written out for one sequence; what chains, chains as in the released weights."""

from __future__ import annotations

import pytest
import torch
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model
from v3bench.model_ref.mtp import mtp_loss

from .tiny import config


def model_of(depth: int, **changes: object) -> Model:
    changes = {"num_nextn_predict_layers": depth, "initializer_range": 0.2} | changes
    model = Model(config(**changes), dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.normal_(1.0, 0.3)
    return model


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def test_wiring_is_that_of_the_released_weights() -> None:
    """Eq. 21-23: the embedding half first, h after the final norm; depth 2 takes what left depth 1's own norm."""
    model, ids = model_of(2), torch.randint(0, 61, (1, 9))
    T = 8
    h = model.hidden(ids[:, :T])
    states = list(model.further(h, ids))
    assert [tuple(s.shape) for s in states] == [(1, T - 1, 48), (1, T - 2, 48)]
    below = h
    for k, (module, got) in enumerate(zip(model.mtp, states, strict=True), start=1):
        e = model.embed.weight[ids[:, k:T]]
        joined = torch.cat((rms(e, module.enorm.weight), rms(below[:, : T - k], module.hnorm.weight)), -1)
        block = module.block(joined @ module.eh_proj.weight.T, model.turns(e, None))
        torch.testing.assert_close(got, rms(block, module.norm.weight))
        below = got


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_loss_equals_eq_24_and_25(depth: int) -> None:
    model, ids = model_of(depth), torch.randint(0, 61, (2, 8))
    T = 7
    loss = model.loss(ids, mtp_weight=0.25, balance_weight=0.0)
    h = model.hidden(ids[:, :T])
    per_depth = []
    for k, state in enumerate(model.further(h, ids), start=1):
        p = (state @ model.head.weight.T).softmax(-1)  # type: ignore[union-attr]
        total = 0.0
        for b in range(2):
            for i in range(T - k):  # position i, from 0, has read t_{i+k} and predicts t_{i+k+1}
                total -= p[b, i, ids[b, i + k + 1]].log().item()
        per_depth.append(total / (2 * T))
    assert loss.mtp.item() == pytest.approx(sum(per_depth) / depth, rel=1e-10)
    main = model(ids[:, :T]).log_softmax(-1).gather(-1, ids[:, 1:, None]).mean()
    assert loss.main.item() == pytest.approx(-main.item(), rel=1e-10)
    assert loss.total.item() == pytest.approx(loss.main.item() + 0.25 * loss.mtp.item(), rel=1e-12)


def test_module_sees_no_token_it_predicts() -> None:
    model = model_of(1)
    ids = torch.randint(0, 61, (1, 8))
    other = ids.clone()
    other[0, 5] = (ids[0, 5] + 1) % 61
    a, b = (next(iter(model.further(model.hidden(x[:, :7]), x))) for x in (ids, other))
    # Position i has read tokens up to i + 1: up to i = 3 it knows nothing of token 5.
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert (a[:, 4] - b[:, 4]).abs().max() > 1e-3


def test_cached_modules_equal_the_uncached() -> None:
    model, ids = model_of(2), torch.randint(0, 61, (2, 10))
    h = model.hidden(ids[:, :9])
    first, second = model.further(h, ids)
    caches = model.new_mtp_caches(2, 4)
    for start, end in ((0, 4), (4, 5), (5, 7)):
        got = model.run_mtp(1, h[:, start:end], ids[:, start + 1 : end + 1], caches[0])
        torch.testing.assert_close(got, first[:, start:end])
        got = model.run_mtp(2, got, ids[:, start + 2 : end + 2], caches[1])
        torch.testing.assert_close(got, second[:, start:end])


def test_embedding_and_head_are_shared() -> None:
    names = [name for name in model_of(1).state_dict() if name.startswith("mtp.")]
    assert not [name for name in names if "embed" in name or "head" in name]
    assert "mtp.0.eh_proj.weight" in names
    with_mtp = Model(config(num_nextn_predict_layers=1, tie_word_embeddings=True), dtype=torch.float64)
    with_mtp.loss(torch.randint(0, 61, (1, 6))).mtp.backward()
    assert with_mtp.embed.weight.grad is not None


def test_model_without_modules_has_no_such_loss() -> None:
    model = Model(config(num_nextn_predict_layers=1), mtp=False)
    assert model.loss(torch.randint(0, 61, (1, 6))).mtp.item() == 0.0
    assert float(mtp_loss([], torch.zeros(1, 3, dtype=torch.int64))) == 0.0


def test_refuses_too_few_tokens() -> None:
    with pytest.raises(BadInput, match="3 tokens; expected at least 4"):
        model_of(2).loss(torch.zeros(1, 3, dtype=torch.int64))
