"""The same tables as Markdown, for the README and for terminals."""

from __future__ import annotations

from v3bench.suite.report.tables import Table


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
