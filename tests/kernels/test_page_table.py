"""The bookkeeping of pages: no page has two owners, none is lost, and the device sees what the host decided."""

from __future__ import annotations

import random

import pytest
import torch
from v3bench.kernels.page_table import PAGE, PageTable


def sound(table: PageTable) -> None:
    """Every page is free or owned once; the image on the device is the host's."""
    owned = [page for row in table.owned for page in row]
    assert sorted(owned + table.free) == list(range(table.pages))
    assert table.lengths.tolist() == table.host_lengths
    for b, pages in enumerate(table.owned):
        assert len(pages) * PAGE >= table.host_lengths[b]
        assert table.block_table[b, : len(pages)].tolist() == pages


def test_rows_grow_and_shrink_at_random_without_losing_a_page() -> None:
    chance, table = random.Random(1), PageTable(3, 20, 8)
    for _ in range(200):
        if chance.random() < 0.5:
            counts = [chance.randrange(100) for _ in range(3)]
            try:
                table.reserve(counts)
            except ValueError:
                table.release(chance.randrange(3))
            else:
                table.advance(counts)
        else:
            table.truncate([chance.randint(0, length) for length in table.host_lengths])
        sound(table)


def test_the_device_tensors_stay_where_they_are() -> None:
    table = PageTable(2, 8, 4)
    places = table.block_table.data_ptr(), table.lengths.data_ptr()
    table.reserve([65, 1])
    table.advance([65, 1])
    table.truncate(1)
    assert (table.block_table.data_ptr(), table.lengths.data_ptr()) == places
    assert table.lengths.dtype == table.block_table.dtype == torch.int32
    sound(table)


def test_a_reservation_that_fails_takes_nothing() -> None:
    table = PageTable(2, 3, 3)
    with pytest.raises(ValueError, match="reserve: 4 pages are needed, 3 of 3 are free"):
        table.reserve(128)
    with pytest.raises(ValueError, match="reserve: row 1 needs 4 pages, the block table has room for 3"):
        table.reserve([0, 193])
    assert len(table.free) == 3
    sound(table)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda table: table.advance(65), "advance: row 0 has pages for 64 tokens, not 65"),
        (lambda table: table.truncate([1, 0]), r"truncate: lengths are \[1, 0\], expected at most \[0, 0\]"),
        (lambda table: table.reserve([1]), r"reserve: \[1\] is not one number from 0 on for each of 2 rows"),
        (lambda table: table.reserve(-1), "is not one number from 0 on"),
        (lambda table: table.release(2), "release: row is 2, expected 0 to 1"),
        (lambda table: PageTable(2, -1, 1), "none may be negative"),
    ],
)
def test_wrong_use_is_one_clear_error(ask: object, message: str) -> None:
    table = PageTable(2, 4, 2)
    table.reserve(1)
    with pytest.raises(ValueError, match=message):
        ask(table)  # type: ignore[operator]
