"""transformers' own MTP generation as the oracle: the same drafts, from the same logits, and the same text.

Its DeepSeek V3 knows the MTP layer of the released model only, layer 61; which layers of a smaller folder are MTP's is
told it here. It takes one prompt at a time, and drafts one token per module, never more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from v3bench.model_ref import load_pretrained
from v3bench.model_ref.generate import generate
from v3bench.model_ref.speculate import Drafter, speculate

from .conftest import Released

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [2, 6, 5, 3, 5, 8, 9, 7, 9]]
WIDE = {"hidden_size": 32, "moe_intermediate_size": 16}  # the grouped product there wants multiples of 16 bytes


def leaning(checkpoint: Released) -> Released:
    """Weights with which some drafts are good: blocks add little, modules pass the token's embedding on."""
    for name, tensor in checkpoint.tensors.items():
        if "norm" in name:
            tensor.abs_().add_(0.5)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.mul_(0.02)
        elif name.endswith("eh_proj.weight"):
            D = tensor.shape[0]
            tensor.mul_(0.01).add_(torch.cat((torch.eye(D), torch.zeros(D, D)), dim=1))
        elif name.endswith("proj.weight"):
            tensor.mul_(0.3)
    return checkpoint


@pytest.mark.parametrize("depth", [1, 2])
def test_drafts_and_text_are_those_of_transformers(
    depth: int, released: Callable[..., Released], monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers
    from transformers.generation.candidate_generator import MTPCandidateGenerator

    folder = leaning(released(mtp=True, num_nextn_predict_layers=depth, **WIDE)).write()
    ours = load_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs._keys_to_ignore_on_load_unexpected = [r"model\.layers\.[2-9]\."]
    drafted: list[Tensor] = []
    wanted: list[Tensor] = []

    class Watched(Drafter):
        def choose(self) -> None:
            drafted.append(self.model.logits(self.state)[0, 0].clone())
            super().choose()

    candidates = MTPCandidateGenerator.get_candidates

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        ids, logits = candidates(self, *args, **kwargs)
        if logits is not None:
            wanted.extend(logits[0].clone())
        return ids, logits

    monkeypatch.setattr(MTPCandidateGenerator, "get_candidates", watched)
    monkeypatch.setattr("v3bench.model_ref.speculate.Drafter", Watched)
    accepted = proposed = 0
    for prompt in PROMPTS:
        drafted.clear(), wanted.clear()
        (row,) = speculate(ours, [prompt], 30, drafts=depth)
        ids = torch.tensor([prompt])
        text = theirs.generate(ids, max_new_tokens=30, do_sample=False, use_mtp=True, eos_token_id=None)
        assert row.tokens == text[0, len(prompt) :].tolist() == generate(ours, [prompt], 30)[0].tokens
        assert len(wanted) == row.steps * depth
        for got, want in zip(drafted, wanted, strict=False):
            assert (got - want).abs().max() <= 1e-4 * want.abs().max()
        accepted, proposed = accepted + row.all_accepted, proposed + row.all_proposed
    assert 0.1 < accepted / proposed < 0.9
