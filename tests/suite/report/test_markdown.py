"""Markdown from the same tables: whole rows, nothing that reads as markup."""

import pandas as pd
from v3bench.suite.report.markdown import render, results_table
from v3bench.suite.report.tables import Column, Table


def lines_of(*values):
    frame = pd.DataFrame({"name": list(values), "count": range(len(values))})
    return render(Table("T", (Column("name", "Name"), Column("count", "N", True)), frame)).splitlines()


def test_numbers_are_right_aligned():
    assert lines_of("a")[2:5] == ["| Name | N |", "| --- | ---: |", "| a | 0 |"]


def test_cells_cannot_break_out_of_their_row():
    row = lines_of("a|b\n<script>`x`&\\|")[4]
    assert row == "| a\\|b &lt;script&gt;\\`x\\`&amp;\\\\\\| | 0 |"


def test_a_table_longer_than_its_limit_says_so():
    frame = pd.DataFrame({"n": range(7)})
    text = render(Table("T", (Column("n", "N", True),), frame, "Why.", limit=5))
    assert [line for line in text.splitlines() if line.startswith("| ")][2:] == [f"| {n} |" for n in range(5)]
    assert text.endswith("\nWhy. 5 of 7 rows are shown; the run folder holds all.\n")


def test_results_name_device_and_code_and_leave_no_claim_out(run, judged):
    text = results_table(run, judged)
    assert text.startswith("**Example CPU, 2 cores; commit 0123456789ab**")
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    note = text.splitlines()[-1]
    counts = [int(word) for word in note.replace(",", " ").split() if word.isdigit()]
    assert counts[0] == len(judged)
    assert len(rows) + sum(counts[1:]) == len(judged)
    assert any("kv-cache-multiple-llama-3-1-405b" in row and "deviates" in row for row in rows)
    cells = ["kv-cache-deepseek-v3", "70.272 KB", "70.272 kB", "\u2013", "70.272 kB", "70.272 kB", "reproduced"]
    assert f"| {' | '.join(cells)} |" in rows
    assert results_table(run, judged) == text
