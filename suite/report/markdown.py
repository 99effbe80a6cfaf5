"""The same tables as Markdown, for the README and for terminals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from v3bench.suite.ledger.verdict import Judged
from v3bench.suite.meter.machine import device_name
from v3bench.suite.report.display import joined
from v3bench.suite.report.ledger_rows import ledger_frame, word_of
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.run_folder import Run, revision


def cell(text: str) -> str:
    """Text that cannot end its cell, its row, or start HTML."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "\\`")


def render(table: Table) -> str:
    """A GitHub table: caption in bold, header, rows, note."""
    head = "| " + " | ".join(cell(column.label) for column in table.columns) + " |"
    rule = "|" + "|".join(" ---: " if column.number else " --- " for column in table.columns) + "|"
    rows = ["| " + " | ".join(map(cell, row)) + " |" for row in table.cells]
    parts = [f"**{cell(table.caption)}**", "", head, rule, *rows]
    return "\n".join(parts + (["", cell(table.notes)] if table.notes else [])) + "\n"


def results_table(run: Run, judged: Sequence[Judged]) -> str:
    """The README's table: what a run's evidence decided and what does not hold, and the device it ran on."""
    count = Counter(word_of(one).word for one in judged)
    told = [one for one in judged if word_of(one).key not in ("recomputed", "model", "untested")]
    columns = (
        Column("id", "Claim"), Column("printed", "Published"), Column("found", "Found"), Column("basis", "Basis"),
        Column("scale", "Scale"), Column("word", "Verdict"),
    )  # fmt: skip
    rest = [
        f"{count[word]} {word}" for word in ("recomputed", "consistent with the model", "not tested") if count[word]
    ]
    left_out = f"Beside these, of {len(judged)} claims: {joined(rest)}." if rest else ""
    caption = f"{device_name(run.info)}; {revision(run.info)}"
    return render(Table(caption, columns, ledger_frame(told), left_out, limit=len(judged)))
