"""Plain decoding of a batch is that of each prompt alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from v3bench.baselines.config import DenseConfig
from v3bench.baselines.dense import Dense
from v3bench.model_ref import generate as module
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.generate import Generated, generate
from v3bench.model_ref.sampling import Sampling

from .drafting import model_of
from .tiny import RAW

RAGGED = [[5], [3, 1, 4, 1, 5, 9, 2, 6], [1, 2, 3], [7, 8], [9] * 20]


@pytest.mark.parametrize("prompts", [RAGGED, [[1, 2, 3], [4, 5, 6]]], ids=["ragged", "even"])
def test_every_row_says_what_it_says_alone(prompts: list[list[int]]) -> None:
    model = model_of(1)
    rows = generate(model, prompts, 17)
    assert rows == [generate(model, [prompt], 17)[0] for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        text = [*prompt, *row.tokens]
        assert model(torch.tensor([text]))[0].argmax(-1).tolist()[len(prompt) - 1 : -1] == row.tokens
        assert (len(row.tokens), row.steps, row.tokens_per_step, row.acceptance_rate) == (17, 16, 1.0, None)
    assert len({token for row in rows for token in row.tokens}) > 20


def test_dense_models_are_decoded_too() -> None:
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    raw = {key: RAW[key] for key in keys} | {"model_type": "llama", "num_key_value_heads": 2}
    more = {"max_position_embeddings": 64, "rms_norm_eps": 1e-6, "initializer_range": 0.3}
    model = Dense(DenseConfig.from_dict(raw | more))
    rows = generate(model, RAGGED, 9)
    assert rows == [generate(model, [prompt], 9)[0] for prompt in RAGGED]


def test_a_row_ends_after_its_stop_token_and_the_others_go_on() -> None:
    model = model_of(1)
    free = generate(model, RAGGED, 12)
    stop = {free[1].tokens[3], free[3].tokens[6]}
    want = []
    for row in free:
        end = next((i for i, token in enumerate(row.tokens, start=1) if token in stop), 12)
        want.append(Generated(row.tokens[:end], end - 1))
    assert generate(model, RAGGED, 12, stop=stop) == want
    assert len({row.steps for row in want}) > 1


def test_a_cache_grows_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(1)
    want = generate(model, RAGGED, 30)
    monkeypatch.setattr(module, "FIRST_ROOM", 2)
    assert generate(model, RAGGED, 30) == want


def test_tokens_and_logits_are_shown_as_they_come() -> None:
    model = model_of(1)
    shown: list[tuple[int, list[int]]] = []
    best: list[tuple[int, int]] = []

    def watch(rows: list[int], logits: Tensor) -> None:
        best.extend(zip(rows, logits.argmax(-1).tolist(), strict=True))

    rows = generate(model, RAGGED, 5, on_tokens=lambda row, tokens: shown.append((row, tokens)), on_logits=watch)
    assert [(row, [token]) for row, token in best] == shown
    assert [[token for row, tokens in shown if row == i for token in tokens] for i in range(5)] == [
        row.tokens for row in rows
    ]


def test_refuses_what_it_cannot_do() -> None:
    model = model_of(1)
    for prompts, count in (([], 4), ([[1], []], 4), ([[1]], 0)):
        with pytest.raises(BadInput, match="at least one token"):
            generate(model, prompts, count)
    for token in (9999, -1):
        with pytest.raises(BadInput, match=f"token {token}; expected 0 to 60"):
            generate(model, [[1], [2, token]], 4)
    for temperature in (-1.0, float("nan"), float("inf"), 1e-9):
        with pytest.raises(BadInput, match="temperature"):
            Sampling(temperature)
    with pytest.raises(BadInput, match="seed"):
        Sampling(1.0, seed=-1)
