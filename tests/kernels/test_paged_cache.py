"""A paged cache holds what was appended, in either layout, and gives it back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from v3bench.kernels import paged_cache
from v3bench.kernels.page_table import PageTable
from v3bench.kernels.paged_cache import PagedCache, append, dequantized, gathered, quantized, reference_append
from v3bench.model_ref.cache import Cache


def tokens(B: int, n: int, C: int, R: int, dtype: torch.dtype = torch.bfloat16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(B, n, C).to(dtype), torch.randn(B, n, R).to(dtype)


@pytest.mark.parametrize(("C", "R", "dtype"), [(24, 8, torch.bfloat16), (32, 16, torch.float32)])
@pytest.mark.parametrize("counts", [None, [2, 0]])
def test_appended_tokens_lie_where_the_definition_puts_them(
    C: int, R: int, dtype: torch.dtype, counts: list[int] | None
) -> None:
    c, r = tokens(2, 3, C, R, dtype)
    table, lengths = torch.tensor([[3, 1], [0, 4]], dtype=torch.int32), torch.tensor([62, 0], dtype=torch.int32)
    many = None if counts is None else torch.tensor(counts, dtype=torch.int32)
    got, want = (torch.zeros(5, 64, C + R, dtype=dtype) for _ in range(2))
    append(got, c, r, table, lengths, many)
    reference_append(want, c, r, table, lengths, many)
    assert want.any()
    assert torch.equal(got, want)


def test_fp8_tokens_have_flashmlas_bytes() -> None:
    c, r = tokens(1, 2, 512, 64)
    c = c * torch.tensor([1e-6, 300.0])[None, :, None]  # a tile below the least amax, and a large one
    c[0, 1, 130] = torch.nan
    table, lengths = torch.tensor([[1]], dtype=torch.int32), torch.tensor([5], dtype=torch.int32)
    got = torch.zeros(2, 64, 656, dtype=torch.uint8)
    append(got, c.bfloat16(), r, table, lengths)
    token = got[1, 6]
    assert torch.equal(token[528:].view(torch.bfloat16), r[0, 1])
    scales = token[512:528].view(torch.float32)
    torch.testing.assert_close(scales[0], c[0, 1, :128].bfloat16().float().abs().max() / 448)
    assert scales.isnan().tolist() == [False, True, False, False]
    want = quantized(c[0].bfloat16(), r[0])
    same = dequantized(got[1, 5:7], torch.float32), dequantized(want, torch.float32)
    assert torch.equal(same[0].nan_to_num(9), same[1].nan_to_num(9))
    assert not got[0].any()
    assert not got[1, :5].any()


def test_what_does_not_fit_is_left_out() -> None:
    """A row that is full, a page that is not there, a length below 0: nothing is written anywhere else."""
    c, r = tokens(3, 1, 16, 8)
    table = torch.tensor([[0], [7], [1]], dtype=torch.int32)
    pages = torch.zeros(2, 64, 24).bfloat16()
    append(pages, c, r, table, torch.tensor([64, 0, -1], dtype=torch.int32))
    assert not pages.any()


def test_keys_of_other_attentions_are_appended_without_a_second_part() -> None:
    pages, keys = torch.zeros(2, 64, 2, 16), torch.randn(1, 2, 2, 16)
    table, lengths = torch.tensor([[1, 0]], dtype=torch.int32), torch.tensor([63], dtype=torch.int32)
    append(pages.flatten(2), keys.flatten(2), None, table, lengths)
    assert torch.equal(gathered(pages, table)[0, 63:65], keys[0])


@pytest.mark.parametrize("fp8", [False, True])
def test_a_contiguous_cache_comes_back_the_same(fp8: bool) -> None:
    C, R = (512, 64) if fp8 else (24, 8)
    kept = Cache(1, 2, 4, (C + R,), dtype=torch.bfloat16)
    kept.append(0, *tokens(2, 3, C, R))
    kept.advance(3)
    table = PageTable(2, 6, 3)
    cache = PagedCache(1, table, C + R, fp8=fp8)
    cache.fill(0, kept.layers[0], [3, 1], C)
    table.advance([3, 1])
    got, want = cache.contiguous(0), kept.layers[0][:, :3].clone()
    want[1, 1:] = 0
    assert got.dtype == torch.bfloat16
    assert torch.equal(got[..., C:], want[..., C:])
    if fp8:  # e4m3 keeps three bits
        assert (got - want).float().norm() < 0.04 * want.float().norm()
    else:
        assert torch.equal(got, want)


def test_rows_are_appended_truncated_and_appended_again() -> None:
    table = PageTable(2, 4, 2)
    cache = PagedCache(2, table, 24)
    c, r = tokens(2, 3, 16, 8)
    for layer in range(2):
        cache.append(layer, c, r)
    table.advance(3)
    table.truncate([3, 1])
    cache.append(1, *(part[:, :1] for part in (c, r)))
    table.advance(1)
    got = cache.contiguous(1)
    assert table.host_lengths == [4, 2]
    assert torch.equal(got[1, :2], torch.cat((c, r), -1)[1, [0, 0]])
    assert torch.equal(got[0], torch.cat((c, r), -1)[0, [0, 1, 2, 0]])
    assert cache.nbytes == 2 * 4 * 64 * 24 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": torch.zeros(2, 3, 16)}, "append: r is bfloat16, expected float32"),
        ({"r": torch.zeros(2, 2, 8).bfloat16()}, r"append: r has shape \(2, 2, 8\), expected \(2, 3, any\)"),
        ({"r": None}, r"append: pages has shape \(4, 64, 24\), expected \(any, 64, 16\)"),
        ({"pages": torch.zeros(4, 64, 656, dtype=torch.uint8)}, "c and r are 16 and 8 wide; FP8 pages hold 512 and 64"),
        ({"pages": torch.zeros(4, 16, 24).bfloat16()}, "append: pages has shape"),
        ({"block_table": torch.zeros(2, 1)}, "append: block_table is float32, expected int32"),
        ({"lengths": torch.zeros(3, dtype=torch.int32)}, r"append: lengths has shape \(3,\), expected \(2\)"),
        ({"counts": torch.zeros(2, dtype=torch.int64)}, "append: counts is int64, expected int32"),
    ],
)
def test_bad_input_is_one_clear_error(change: dict[str, Any], message: str) -> None:
    c, r = tokens(2, 3, 16, 8)
    given: dict[str, Any] = {
        "pages": torch.zeros(4, 64, 24).bfloat16(), "c": c, "r": r,
        "block_table": torch.zeros(2, 1, dtype=torch.int32), "lengths": torch.zeros(2, dtype=torch.int32),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        append(**{**given, **change})


def test_layouts_of_flashmla_are_views() -> None:
    pages = torch.zeros(2, 64, 656, dtype=torch.uint8)
    c, r, scales = paged_cache.parts_of(pages, 512)
    assert scales is not None
    assert (c.shape[-1], r.shape[-1], scales.shape[-1]) == (512, 64, 4)
    base = pages.data_ptr()
    assert [x.data_ptr() - base for x in (c, scales, r)] == [0, 512, 528]
