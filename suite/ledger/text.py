"""The ledger as lines of text for a terminal: a claim a line, its published value beside what decided it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from v3bench.suite.ledger.units import show

if TYPE_CHECKING:
    from v3bench.suite.ledger.verdict import Judged

PUBLISHED, FOUND = 22, 22  # characters


def lines(judged: Sequence[Judged], width: int | None = None) -> list[str]:
    """A table with a heading per area, then the number of claims by verdict."""
    width = width or max(132, get_terminal_size().columns)
    name = max((len(row.claim.id) for row in judged), default=0) + 2
    out = [f"{'claim':<{name}}{'published':<{PUBLISHED}}{'found':<{FOUND}}verdict", "-" * width]
    for area, rows in groupby(judged, key=lambda row: row.claim.area):
        out.append(f"[{area}]")
        for row in rows:
            printed = shorten(row.claim.published.printed, PUBLISHED - 2)
            found = shorten(decided(row), FOUND - 2)
            line = f"{row.claim.id:<{name}}{printed:<{PUBLISHED}}{found:<{FOUND}}{row.verdict}"
            out.append(shorten(line, width))
            out += [f"    {error}" for error in row.errors]
    counts = Counter("not tested" if row.outcome == "untested" else row.verdict for row in judged)
    summary = ", ".join(f"{number} {words}" for words, number in counts.most_common())
    return [*out, "-" * width, f"{len(judged)} claims: {summary}"]


def decided(row: Judged) -> str:
    """The values that decided, or nothing."""
    return "; ".join(dict.fromkeys(show(found.value, found.unit) for found in row.deciding))


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."
