"""A table: a pandas frame, what its columns are called, and what must be said with it. Two renderings read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from v3bench.suite.report.display import number, plain


@dataclass(frozen=True)
class Column:
    """One shown column: the frame's column, its heading, and whether it is a number (right-aligned).

    ``below``: text of a sentence or more, which on the page stands in a line of its own below its row.
    """

    key: str | int
    label: str
    number: bool = False
    show: Callable[[Any], str] | None = None
    below: bool = False

    def text(self, value: Any) -> str:
        """The cell as text; missing values become a dash."""
        if value is None or value is pd.NA or (isinstance(value, float) and value != value):
            return plain(None)
        if self.show:
            return self.show(value)
        return number(value) if self.number and value != "" else plain(value)


@dataclass(frozen=True)
class Table:
    """Caption, columns, frame and note; the first column heads its row."""

    caption: str
    columns: tuple[Column, ...]
    frame: pd.DataFrame
    note: str = ""
    limit: int = 200
    total: int = 0  # rows there are, where the frame holds only those that are shown

    @property
    def cells(self) -> list[list[str]]:
        """The shown rows as text, at most ``limit`` of them."""
        shown = self.frame.head(self.limit)
        columns = [[column.text(value) for value in shown[column.key].tolist()] for column in self.columns]
        return [list(row) for row in zip(*columns, strict=True)]

    @property
    def notes(self) -> str:
        """The note, with what the limit left out."""
        total = max(self.total, len(self.frame))
        cut = f"{self.limit} of {total:,} rows are shown; the run folder holds all." if total > self.limit else ""
        return " ".join(filter(None, (self.note, cut)))
