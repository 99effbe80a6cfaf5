"""A small corpus and the smallest run on it."""

import pytest
import torch
from v3bench.suite.train import corpus
from v3bench.suite.train.plan import Plan

# Widths that are no multiple of 128, and experts that may get no token.
SMALL = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 24,
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "intermediate_size": 40,
    "moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
}  # fmt: skip


@pytest.fixture(scope="session")
def text():
    """8 KB of letters in 24 files, the same in every session."""
    letters = torch.randint(97, 123, (24, 350), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    return {f"f{n:02d}.txt": bytes(row.tolist()) for n, row in enumerate(letters)}


@pytest.fixture(scope="session")
def folder(text, tmp_path_factory):
    """The same on disk."""
    path = tmp_path_factory.mktemp("corpus")
    for name, data in text.items():
        (path / name).write_bytes(data)
    return path


@pytest.fixture(scope="session")
def small(folder):
    """The corpus of that folder."""
    return corpus.load(str(folder))


@pytest.fixture
def plan(folder):
    """Eight steps of the small model on it."""
    return Plan(model="deepseek-v3-small", change=SMALL, corpus=str(folder), steps=8, batch=2, length=16, rate=3e-3)
