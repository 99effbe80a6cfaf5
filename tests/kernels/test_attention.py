"""Attention against one query at a time, written without masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from v3bench.kernels.attention import attention, reference

CASES = {
    # name: (S, L, H, J, d, v, causal, window, lengths)
    "square, MLA's unequal widths": (7, 7, 4, 4, 12, 10, True, None, None),
    "one query over a cache": (1, 9, 4, 2, 8, 8, True, None, None),
    "one query, rows of different lengths": (1, 9, 6, 2, 8, 8, True, None, [9, 4]),
    "several queries, rows of different lengths": (3, 9, 4, 1, 8, 6, True, None, [5, 9]),
    "a chunk after a cache": (4, 11, 4, 4, 8, 5, True, None, None),
    "window in a square": (8, 8, 4, 2, 8, 8, True, 3, None),
    "window over a cache": (1, 9, 4, 2, 8, 8, True, 4, [9, 6]),
    "window wider than all": (5, 5, 2, 2, 8, 8, True, 50, None),
    "not causal": (5, 5, 2, 1, 8, 8, False, None, None),
    "not causal, rows of different lengths": (2, 6, 2, 2, 8, 8, False, None, [6, 3]),
}


def by_hand(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, window: int | None, ends: list[int]) -> Tensor:
    (B, S, H, _), J = q.shape, k.shape[2]
    out = q.new_empty(B, S, H, v.shape[-1])
    for b in range(B):
        for s in range(S):
            position = ends[b] - S + s
            last = position + 1 if causal else ends[b]
            first = 0 if window is None else max(0, position + 1 - window)
            for h in range(H):
                j = h * J // H
                scores = k[b, first:last, j] @ q[b, s, h] * scale
                out[b, s, h] = torch.softmax(scores, 0) @ v[b, first:last, j]
    return out


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", [attention, reference])
def test_equals_one_query_at_a_time(case: str, op: object) -> None:
    S, L, H, J, d, v, causal, window, lengths = CASES[case]
    q, k, value = (torch.randn(2, n, h, w, dtype=torch.float64) for n, h, w in ((S, H, d), (L, J, d), (L, J, v)))
    want = by_hand(q, k, value, 0.3, causal, window, lengths or [L, L])
    ends = None if lengths is None else torch.tensor(lengths)
    got = op(q, k, value, scale=0.3, causal=causal, window=window, lengths=ends)  # type: ignore[operator]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("op", [attention, reference])
def test_bfloat16_scores_are_not_rounded(op: object) -> None:
    """Scores of about 40, where bfloat16 has steps of a quarter: weights from rounded ones would be far off."""
    q, k, v = (torch.randn(2, n, 4, 16).bfloat16() for n in (3, 50, 50))
    want = reference(q.double(), k.double(), v.double(), scale=10.0)
    got = op(q, k, v, scale=10.0)  # type: ignore[operator]
    assert got.dtype == torch.bfloat16
    assert (got.double() - want).abs().max() < 1e-2 * want.abs().max()


def test_gradients_are_those_of_the_definition() -> None:
    shapes = ((1, 5, 4, 6), (1, 5, 2, 6), (1, 5, 2, 4))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    want = torch.autograd.grad(reference(*inputs, scale=0.4).square().sum(), inputs)
    got = torch.autograd.grad(attention(*inputs, scale=0.4).square().sum(), inputs)
    torch.testing.assert_close(got, want)


def test_meta_tensors_get_a_shape() -> None:
    q, k, v = (torch.empty(2, n, 4, w, device="meta", dtype=torch.bfloat16) for n, w in ((6, 8), (6, 8), (6, 4)))
    assert attention(q, k, v, scale=1.0).shape == (2, 6, 4, 4)
