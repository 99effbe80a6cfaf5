"""Which page holds which tokens: the bookkeeping of a paged cache, whatever a token's entry is.

A cache's tokens lie in pages of 64. Token t of row b is slot t % 64 of page block_table[b, t // 64]. Decisions are
made on the host, which knows every length; ``block_table`` and ``lengths`` are their image on the device, changed in
place, so that a captured graph sees the change. One table serves all layers, and keys and values alike.

B rows (sequences)  P pages
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

PAGE = 64  # tokens; FlashMLA's


class PageTable:
    """Pages of ``batch`` rows, at most ``columns`` a row, out of ``pages``; the lowest free page is given out first."""

    def __init__(self, batch: int, pages: int, columns: int, *, device: torch.device | str | None = None) -> None:
        if batch < 0 or pages < 0 or columns < 0 or pages >= 2**31:
            raise ValueError(f"page table: {batch} rows, {pages} pages, {columns} a row; none may be negative")
        self.batch, self.pages, self.columns = batch, pages, columns
        self.free = list(range(pages - 1, -1, -1))  # a stack
        self.owned: list[list[int]] = [[] for _ in range(batch)]
        self.host_lengths = [0] * batch
        self.block_table = torch.zeros(batch, columns, dtype=torch.int32, device=device)  # (B, columns)
        self.lengths = torch.zeros(batch, dtype=torch.int32, device=device)  # (B)

    def reserve(self, count: int | Sequence[int]) -> None:
        """Give every row the pages that ``count`` more tokens need. All or none; raises ValueError where too few."""
        counts = self.per_row("reserve", count)
        room = [-(-(length + n) // PAGE) for length, n in zip(self.host_lengths, counts, strict=True)]
        more = [max(want - len(has), 0) for want, has in zip(room, self.owned, strict=True)]
        for b, want in enumerate(room):
            if want > self.columns:
                raise ValueError(f"reserve: row {b} needs {want} pages, the block table has room for {self.columns}")
        if sum(more) > len(self.free):
            raise ValueError(f"reserve: {sum(more)} pages are needed, {len(self.free)} of {self.pages} are free")
        for owned, n in zip(self.owned, more, strict=True):
            owned.extend(self.free.pop() for _ in range(n))
        if any(more):
            self.show_pages()

    def advance(self, count: int | Sequence[int]) -> None:
        """Count ``count`` appended tokens in every row, whose pages were reserved. Raises ValueError."""
        counts = self.per_row("advance", count)
        new = [length + n for length, n in zip(self.host_lengths, counts, strict=True)]
        for b, length in enumerate(new):
            if length > PAGE * len(self.owned[b]):
                raise ValueError(f"advance: row {b} has pages for {PAGE * len(self.owned[b])} tokens, not {length}")
        self.set_lengths(new)

    def truncate(self, lengths: int | Sequence[int]) -> None:
        """Forget what lies beyond ``lengths`` and free the pages that are left empty. Raises ValueError."""
        new = self.per_row("truncate", lengths)
        if any(n > old for n, old in zip(new, self.host_lengths, strict=True)):
            raise ValueError(f"truncate: lengths are {new}, expected at most {self.host_lengths}")
        for b, length in enumerate(new):
            keep = -(-length // PAGE)
            self.free.extend(reversed(self.owned[b][keep:]))
            del self.owned[b][keep:]
        self.set_lengths(new)

    def release(self, row: int) -> None:
        """Free all pages of a finished row, which is empty then."""
        if not 0 <= row < self.batch:
            raise ValueError(f"release: row is {row}, expected 0 to {self.batch - 1}")
        self.truncate([0 if b == row else length for b, length in enumerate(self.host_lengths)])

    def per_row(self, what: str, count: int | Sequence[int]) -> list[int]:
        """One number a row, none negative. Raises ValueError."""
        counts = [count] * self.batch if isinstance(count, int) else list(count)
        if len(counts) != self.batch or any(n < 0 for n in counts):
            raise ValueError(f"{what}: {counts} is not one number from 0 on for each of {self.batch} rows")
        return counts

    def set_lengths(self, lengths: list[int]) -> None:
        """The lengths, and their image on the device."""
        self.host_lengths = lengths
        self.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))

    def show_pages(self) -> None:
        """The image of the pages on the device; entries past a row's pages are stale or 0, and never read."""
        rows = [[*owned, *[0] * (self.columns - len(owned))] for owned in self.owned]
        self.block_table.copy_(torch.tensor(rows, dtype=torch.int32).view(self.batch, self.columns))
