"""The same tables as Markdown, for the README and for terminals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from v3bench.suite.ledger.verdict import Judged
from v3bench.suite.meter.machine import device_name
from v3bench.suite.report.display import joined
from v3bench.suite.report.ledger_rows import WORDS, ledger_frame, word_of
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
    """The README's table: claims that the run counted or measured, and those that do not hold, basis by basis.

    The caption names the device and the code; the note counts the claims that are left out.
    """
    told = [one for one in judged if word_of(one).key in ("deviates", "ambiguous") or seen_in_run(one)]
    told_ids = {one.claim.id for one in told}
    left = Counter(word_of(one).word for one in judged if one.claim.id not in told_ids)
    columns = (
        Column("id", "Claim"), Column("printed", "Published"), Column("formula", "Formula"),
        Column("modelled", "Modelled"), Column("counted", "Counted"), Column("measured", "Measured"),
        Column("word", "Verdict"),
    )  # fmt: skip
    rest = [f"{left[word.word]} {word.word}" for word in WORDS if left[word.word]]
    note = f"Of {len(judged)} claims, these are left out here: {joined(rest)}." if rest else ""
    caption = f"{device_name(run.info)}; {revision(run.info)}"
    return render(Table(caption, columns, ledger_frame(told), note, limit=len(judged)))


def seen_in_run(judged: Judged) -> bool:
    """Whether a run's records stand among the evidence."""
    return any(row.basis in ("counted", "measured") for row in judged.evidence)
