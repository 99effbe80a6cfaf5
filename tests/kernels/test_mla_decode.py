"""Absorbed attention is attention with one shared key, whose first channels are the value."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels import attention
from v3bench.kernels.mla_decode import mla_decode, reference


@pytest.mark.parametrize("op", [mla_decode, reference])
@pytest.mark.parametrize(("S", "lengths"), [(1, None), (3, None), (1, [4, 9, 1]), (2, [9, 5, 2])])
def test_equals_attention_over_one_shared_head(op: object, S: int, lengths: list[int] | None) -> None:
    q, latents = torch.randn(3, S, 5, 14, dtype=torch.float64), torch.randn(3, 9, 14, dtype=torch.float64)
    ends = None if lengths is None else torch.tensor(lengths)
    key, value = latents.unsqueeze(2), latents[..., None, :10]
    want = attention.reference(q, key, value, scale=0.2, lengths=ends)
    got = op(q, latents, value_dim=10, scale=0.2, lengths=ends)  # type: ignore[operator]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("op", [mla_decode, reference])
@pytest.mark.parametrize("grad", [False, True])
def test_bfloat16_scores_are_not_rounded(op: object, grad: bool) -> None:
    """Scores of about 40, where bfloat16 has steps of a quarter: weights from rounded ones would be far off."""
    q, latents = torch.randn(2, 3, 4, 16).bfloat16(), torch.randn(2, 50, 16).bfloat16()
    want = reference(q.double(), latents.double(), value_dim=8, scale=10.0)
    with torch.set_grad_enabled(grad):
        got = op(q, latents, value_dim=8, scale=10.0)  # type: ignore[operator]
    assert got.dtype == torch.bfloat16
    assert (got.double() - want).abs().max() < 1e-2 * want.abs().max()


def test_bfloat16_weights_are_computed_in_float32() -> None:
    q, latents = torch.randn(1, 1, 4, 16).bfloat16(), torch.randn(1, 300, 16).bfloat16()
    want = reference(q.double(), latents.double(), value_dim=8, scale=1.0)
    got = mla_decode(q, latents, value_dim=8, scale=1.0)
    assert got.dtype == torch.bfloat16
    assert (got.double() - want).abs().max() < 2e-2 * want.abs().max()
