"""Speculative decoding says what plain decoding says, whatever the drafts are."""

from __future__ import annotations

import pytest
import torch
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.generate import Drafter, generate, speculate
from v3bench.model_ref.model import Model

from .tiny import config


def model_of(depth: int, seed: int = 0) -> Model:
    """Float64, so that no near-tie is decided by rounding; larger weights, so that tokens differ."""
    model = Model(config(num_nextn_predict_layers=depth, initializer_range=0.3), dtype=torch.float64)
    model.reset_parameters(torch.Generator().manual_seed(seed))
    return model


def agreeing(depth: int) -> Model:
    """A model whose modules always predict what the main model says: every block adds nothing to the embedding."""
    model = model_of(depth)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("attn.w_o", "w_down")):
                parameter.zero_()
        for module in model.mtp:
            D = model.config.hidden_size
            module.eh_proj.weight.copy_(torch.cat((torch.eye(D), torch.zeros(D, D)), dim=1))
    return model


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("prompt", [[5], [3, 1, 4, 1, 5, 9, 2, 6]])
def test_speculative_tokens_are_the_plain_ones(depth: int, prompt: list[int]) -> None:
    model = model_of(depth)
    plain = generate(model, prompt, 17)
    fast = speculate(model, prompt, 17)
    assert fast.tokens == plain.tokens
    assert len(set(plain.tokens)) > 3
    assert fast.proposed == depth * fast.steps


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_agreeing_drafts_are_all_accepted(depth: int) -> None:
    fast = speculate(agreeing(depth), [7, 8], 1 + 4 * (depth + 1))
    assert fast.accepted == fast.proposed == 4 * depth
    assert fast.steps == 4
    assert fast.tokens == generate(agreeing(depth), [7, 8], 1 + 4 * (depth + 1)).tokens


@torch.inference_mode()
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_drafts_after_any_number_of_acceptances_are_those_of_a_fresh_start(depth: int) -> None:
    model = model_of(depth)
    generator = torch.Generator().manual_seed(1)

    def tensor(ids: list[int]) -> torch.Tensor:
        return torch.tensor([ids])

    drafter = Drafter(model, tensor, 64)
    tokens, seen = [1, 2, 3, 4], 0
    for accepted in (0, 2, 1, 0, 3, 0, 0, 1):
        states = model.hidden(tensor(tokens[:-1]))
        drafts = drafter.draft(states[:, seen:], tokens)
        assert drafts == Drafter(model, tensor, 64).draft(states, tokens)
        seen = len(tokens) - 1
        refusal = int(torch.randint(0, model.config.vocab_size, (1,), generator=generator))
        tokens = [*tokens, *drafts[:accepted], refusal]
        drafter.keep(len(tokens) - 1)


def test_stops_after_a_stop_token() -> None:
    model = model_of(1)
    free = generate(model, [1, 2, 3], 12).tokens
    stop = free[4]
    want = free[: free.index(stop) + 1]
    assert generate(model, [1, 2, 3], 12, stop={stop}).tokens == want
    assert speculate(model, [1, 2, 3], 12, stop={stop}).tokens == want


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(BadInput, match="no MTP modules"):
        speculate(Model(config(num_nextn_predict_layers=1), mtp=False), [1], 4)
    model = model_of(1)
    with pytest.raises(BadInput, match="at least one token"):
        generate(model, [], 4)
    with pytest.raises(BadInput, match="token 9999; expected 0 to"):
        generate(model, [1, 9999], 4)
