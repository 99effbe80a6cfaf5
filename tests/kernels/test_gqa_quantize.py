"""Keys and values quantised as they are appended: each token from itself alone, nothing else touched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from v3bench.kernels import gqa_quantize as heads
from v3bench.kernels.paged_gqa import FP8, paged_gqa, paged_gqa_fp8

CONFIG = {"BLOCK_N": 64, "PROGRAMS": 2, "num_warps": 4, "num_stages": 2}


def test_a_token_is_quantised_from_itself_alone() -> None:
    x = torch.randn(3, 5, 2, 24).bfloat16()
    x[1, 2, 1, 3] = float("nan")
    want = heads.reference_heads(x)
    got = heads.quantize_heads(x, config={"ROWS": 4, "num_warps": 4})
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=0, equal_nan=True)
    alone = heads.reference_heads(x[2:, 4:])
    assert torch.equal(alone[0].float(), want[0][2:, 4:].float())
    assert want[1].isnan().nonzero().tolist() == [[1, 2, 1]]
    back = (want[0].float() * want[1][..., None])[0]
    assert (back - x[0].float()).norm() < 0.04 * x[0].float().norm()


def empty(pages: int, J: int, d: int) -> tuple[Tensor, Tensor]:
    """Pages that hold 7 everywhere, with scales of 3."""
    scales = heads.empty_scales(pages, 64, J, "cpu")
    assert scales.stride() == (64 * J, 1, 64)
    return torch.full((pages, 64, J, d), 7.0).to(FP8), scales.fill_(3)


def test_appending_writes_the_new_tokens_and_nothing_else() -> None:
    table = torch.tensor([[3, 1], [0, 9], [4, 2]], dtype=torch.int32)  # page 9 is not there
    lengths = torch.tensor([62, 63, 126])
    x = torch.randn(3, 9 + 4, 4, 24).bfloat16()[:, :4, 1:]  # rows reach into the next page, a missing one, beyond
    want, got = empty(5, 3, 24), empty(5, 3, 24)
    heads.reference_append(x, *want, table, lengths)
    heads.append_heads(x, *got, table, lengths)
    assert torch.equal(got[0].float(), want[0].float())
    assert torch.equal(got[1], want[1])
    assert (want[1] != 3).sum() == (4 + 1 + 2) * 3


def test_what_is_appended_is_what_attention_reads() -> None:
    x = torch.randn(2, 1, 70, 2, 16).bfloat16()  # keys and values of one row
    table = torch.tensor([[1, 0]], dtype=torch.int32)
    q, lengths = torch.randn(1, 1, 4, 16).bfloat16(), torch.tensor([70])
    coded, plain = [], []
    for new in x:
        pages, scales = empty(2, 2, 16)
        heads.append_heads(new[:, :67], pages, scales, table, torch.tensor([0]))
        heads.append_heads(new[:, 67:], pages, scales, table, torch.tensor([67]))
        coded.append((pages, scales))
        plain.append(torch.zeros(2, 64, 2, 16).bfloat16())
        plain[-1][1], plain[-1][0, :6] = new[0, :64], new[0, 64:]
    (k, k_scales), (v, v_scales) = coded
    got, _ = paged_gqa_fp8(q, k, v, k_scales, v_scales, table, lengths, scale=0.25, config=CONFIG)
    want, _ = paged_gqa(q, *plain, table, lengths, scale=0.25, config=CONFIG)
    assert (got.float() - want.float()).norm() < 0.06 * want.float().norm()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 2, 2, 16, dtype=torch.int8)}, "append_heads: x is int8, expected bfloat16"),
        ({"x": torch.zeros(1, 2, 2, 130)}, "expected heads of width 1 to 128"),
        ({"x": torch.zeros(1, 2, 3, 16)}, r"pages has shape \(2, 64, 2, 16\), expected \(any, any, 3, 16\)"),
        ({"scales": torch.zeros(2, 64)}, r"scales is float32 \(2, 64\), expected float32 \(2, 64, 2\)"),
        ({"block_table": torch.zeros(2, 1, dtype=torch.int32)}, r"block_table has shape \(2, 1\)"),
        ({"lengths": torch.zeros(1)}, "lengths is float32, expected int32"),
        ({"clamp": 0.0}, "clamp is 0.0"),
    ],
)
def test_bad_input_is_one_clear_error(change: dict[str, object], message: str) -> None:
    pages, scales = empty(2, 2, 16)
    table, lengths = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    given = {"x": torch.zeros(1, 2, 2, 16), "pages": pages, "scales": scales, "block_table": table, "lengths": lengths}
    with pytest.raises(ValueError, match=message):
        heads.append_heads(**{**given, **change})  # type: ignore[arg-type]


def test_heads_wider_than_a_tile_are_refused() -> None:
    with pytest.raises(ValueError, match=r"quantize_heads: x has shape \(2, 129\)"):
        heads.quantize_heads(torch.zeros(2, 129))
