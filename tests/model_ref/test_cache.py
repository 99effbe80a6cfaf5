"""The cache: rows of different lengths, growing, cutting back."""

from __future__ import annotations

import pytest
import torch
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.errors import BadInput


def filled(lengths: list[int], capacity: int = 6) -> Cache:
    """Layer l, row b, token i holds 100 l + 10 b + i in both channels of its entry."""
    cache = Cache(2, len(lengths), capacity, (2,))
    for i in range(max(lengths, default=0)):
        cache.reserve(1)
        for layer in range(2):
            entry = torch.tensor([[[100.0 * layer + 10 * b + i]] for b in range(len(lengths))])
            cache.append(layer, entry, entry)
        cache.advance(1)
    cache.truncate(lengths)
    return cache


def test_tokens_are_where_they_were_put() -> None:
    cache = filled([3, 3])
    assert cache.uniform
    assert cache.lengths.tolist() == [3, 3]
    assert cache.layers[1][1, :3, 0].tolist() == [110.0, 111.0, 112.0]


def test_rows_of_different_lengths_append_at_their_own_ends() -> None:
    cache = filled([3, 1])
    assert not cache.uniform
    new = torch.tensor([[[7.0], [8.0]], [[9.0], [10.0]]])
    cache.reserve(2)
    seen = cache.append(0, new, -new)
    assert seen.shape == (2, 5, 2)
    cache.advance(2)
    assert cache.lengths.tolist() == [5, 3]
    assert cache.layers[0][0, :5, 0].tolist() == [0.0, 1.0, 2.0, 7.0, 8.0]
    assert cache.layers[0][1, :3, 0].tolist() == [10.0, 9.0, 10.0]
    assert cache.layers[0][1, 1:3, 1].tolist() == [-9.0, -10.0]


def test_lengths_count_on_where_they_are() -> None:
    cache = filled([3, 1])
    before = cache.lengths
    cache.reserve(2)
    cache.advance(2)
    assert cache.lengths.tolist() == cache.host_lengths == [5, 3]
    assert before.tolist() == [3, 1]  # whoever holds the old ones keeps them
    cache.truncate([4, 3])
    assert cache.lengths.tolist() == [4, 3]


def test_parts_lie_one_after_another() -> None:
    cache = Cache(1, 1, 4, (3, 2))
    keys, values = torch.ones(1, 1, 2, 2), torch.full((1, 1, 1, 2), 5.0)
    seen = cache.append(0, keys, values)
    assert seen[0, 0].tolist() == [[1.0, 1.0], [1.0, 1.0], [5.0, 5.0]]


def test_growing_doubles_and_keeps_what_is_there() -> None:
    cache = filled([3, 3], capacity=3)
    before = [layer.clone() for layer in cache.layers]
    cache.reserve(1)
    assert cache.capacity == 6
    for old, new in zip(before, cache.layers, strict=True):
        assert torch.equal(new[:, :3], old)
    cache.reserve(20)
    assert cache.capacity == 23


def test_fixed_capacity_is_refused_when_full() -> None:
    cache = Cache(1, 1, 4, (2,), grows=False)
    cache.reserve(4)
    with pytest.raises(BadInput, match="5 tokens exceed the capacity 4"):
        cache.reserve(5)


def test_truncate_takes_numbers_lists_and_tensors() -> None:
    cache = filled([5, 4])
    cache.truncate(torch.tensor([4, 4]))
    assert cache.uniform
    cache.truncate([3, 2])
    assert cache.lengths.tolist() == [3, 2]
    cache.truncate(1)
    assert cache.lengths.tolist() == [1, 1]
    assert cache.longest == 1


@pytest.mark.parametrize("wrong", [[6, 1], [1], [-1, 1], 4])
def test_truncate_refuses_what_is_not_there(wrong: list[int] | int) -> None:
    with pytest.raises(BadInput, match="truncate to"):
        filled([5, 3]).truncate(wrong)


def test_select_keeps_rows_with_their_lengths() -> None:
    cache = filled([5, 3, 4])
    before = cache.layers[0].clone()
    cache.select([2, 0])
    assert (cache.batch, cache.lengths.tolist(), cache.longest, cache.uniform) == (2, [4, 5], 5, False)
    assert torch.equal(cache.layers[0], before[[2, 0]])


def test_bytes_are_those_of_the_tensors() -> None:
    cache = Cache(3, 2, 10, (576,), dtype=torch.bfloat16, device="meta")
    assert cache.nbytes == 3 * 2 * 10 * 576 * 2
