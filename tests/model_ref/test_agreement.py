"""In float32 nothing differs; in bfloat16 only near-ties do, and a decoder that errs is found out."""

from __future__ import annotations

from statistics import median

import pytest
import torch
from torch import Tensor
from v3bench.model_ref.agreement import Comparison, compared, rounding_bound
from v3bench.model_ref.generate import generate
from v3bench.model_ref.model import Model
from v3bench.model_ref.sampling import judged

from .drafting import leaning

RANDOM = torch.Generator().manual_seed(5)
PROMPTS = [torch.randint(0, 61, (n,), generator=RANDOM).tolist() for n in (9, 4, 11, 2, 6, 3, 8, 5, 10, 7)]
DENSE = 3  # all layers of the tiny model


def model_of(dtype: torch.dtype, part: float, dense: int) -> Model:
    """So narrow that four tokens a step are attended in the other form than one: only then is rounding different."""
    changes = {"kv_lora_rank": 64, "qk_nope_head_dim": 4, "v_head_dim": 2, "first_k_dense_replace": dense}
    model = leaning(1, part, dtype=dtype, **changes)
    attention = model.layers[0].attn
    assert attention.absorbing_is_cheaper(1)
    assert not attention.absorbing_is_cheaper(4)
    return model


def both(model: Model) -> Comparison:
    """Both ways of decoding, three drafts a step; every row is the same up to its first difference."""
    found = compared(model, PROMPTS, 40, drafts=3)
    places = {d.row: d.at for d in found.differences}
    for row, (a, b) in enumerate(zip(found.plain, found.speculative, strict=True)):
        at = places.get(row, 40)
        assert a.tokens[:at] == b.tokens[:at]
        assert (a.tokens[at:] == b.tokens[at:]) == (row not in places)
    return found


@pytest.mark.parametrize("dense", [1, DENSE])
def test_float32_differs_nowhere(dense: int) -> None:
    assert both(model_of(torch.float32, 1.0, dense)).differences == []


def test_bfloat16_differs_only_within_the_bound() -> None:
    differences = both(model_of(torch.bfloat16, 1.0, DENSE)).differences
    assert differences
    assert all(0 <= d.gap <= d.distance <= d.bound for d in differences)
    assert all(d.within and d.moved == 0 for d in differences)


def test_experts_that_nearly_tie_move_logits_further_and_so_does_the_text_read_anew() -> None:
    differences = both(model_of(torch.bfloat16, 1.0, 1)).differences
    assert any(not d.within for d in differences)
    assert all(d.explained for d in differences)


def test_the_bound_says_something() -> None:
    """Most gaps are wider, and a whole forward pass, the other form throughout, moves the best two no further."""
    model = model_of(torch.bfloat16, 1.0, DENSE)
    gaps: list[float] = []
    bounds: list[float] = []

    def watch(rows: list[int], logits: Tensor) -> None:
        best = logits.float().topk(2).values
        gaps.extend((best[:, 0] - best[:, 1]).tolist())
        bounds.extend(rounding_bound(logits, DENSE).tolist())

    rows = generate(model, PROMPTS, 20, on_logits=watch)
    assert median(gaps) > 2 * median(bounds)
    with torch.inference_mode():
        for prompt, row in zip(PROMPTS, rows, strict=True):
            ids = torch.tensor([[*prompt, *row.tokens]])
            _, cache = model.prefill(ids[:, :1])
            stepped = torch.cat([model.decode(ids[:, i : i + 1], cache) for i in range(1, ids.shape[1])], dim=1)
            moved = stepped.float() - model(ids)[:, 1:].float()
            apart = moved.gather(-1, stepped.topk(2).indices).diff().abs().squeeze(-1)
            assert (apart <= rounding_bound(stepped, DENSE)).all()
            assert apart.max() > 0


def test_a_decoder_that_errs_is_not_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def lenient(logits: Tensor, drafts: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        tokens, good = judged(logits, drafts, *rest)  # type: ignore[arg-type]
        return torch.where(good[:, None] == 0, torch.cat((drafts[:, :1], tokens[:, 1:]), dim=1), tokens), good

    monkeypatch.setattr("v3bench.model_ref.speculate.judged", lenient)
    differences = both(model_of(torch.bfloat16, 1.0, DENSE)).differences
    assert len(differences) == len(PROMPTS)
    assert sum(not d.explained for d in differences) > len(PROMPTS) // 2
