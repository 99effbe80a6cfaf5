"""What the page says, worked out from runs and ledger before the template lays it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from v3bench import __version__
from v3bench.suite.ledger.verdict import Judged
from v3bench.suite.meter.machine import device_name
from v3bench.suite.meter.measurement import AREAS
from v3bench.suite.report import charts, ledger_rows, model_tables, run_tables
from v3bench.suite.report.budget_view import budget_parts
from v3bench.suite.report.bundle import available
from v3bench.suite.report.display import MISSING, TITLES, joined
from v3bench.suite.report.findings_view import finding_views, findings_of
from v3bench.suite.report.frames import measurements_frame
from v3bench.suite.report.kernel_view import kernel_parts
from v3bench.suite.report.mtp_view import mtp_parts
from v3bench.suite.report.pareto_chart import variant_parts
from v3bench.suite.report.ratio_table import ratio_table
from v3bench.suite.run_folder import Run, revision

NO_CHARTS = (
    "Charts need the packages altair and vl-convert-python, which are not installed; the tables hold every number."
)


def page_context(runs: Sequence[Run], judged: Sequence[Judged]) -> dict[str, Any]:
    """All that the template lays out, scripts and style apart."""
    records = measurements_frame(runs)
    described = model_parts(model_tables.descriptions(), judged)
    chapters = (budget_parts, mtp_parts, variant_parts, kernel_parts)
    parts = described + [part for chapter in chapters for part in chapter(runs, NO_CHARTS)]
    found = finding_views(judged)
    contents = [
        *([{"id": "findings", "title": "Findings"}] if found else []),
        *({"id": part["id"], "title": part["title"]} for part in parts),
        *(
            {"id": name.lower().replace(" ", "-"), "title": name}
            for name in ("Measurements", "Environment", "Raw data")
        ),
    ]
    return {
        "version": __version__, "missing": MISSING, "bases": ledger_rows.BASES, "judged_count": len(judged),
        "areas": areas(judged), "tally": ledger_rows.tally(judged), "tally_table": ledger_rows.tally_table(judged),
        "lead": lead(judged), "facts": masthead(runs), "warnings": run_tables.warnings(runs), "findings": found,
        "model_parts": parts, "contents": contents, "measured": run_tables.measured_tables(runs, records),
        "ratios": ratio_table(runs),
        "untaken": run_tables.untaken_table(records),
        "environment": [run_tables.environment_table(runs), run_tables.segments_table(runs)] if runs else [],
    }  # fmt: skip


def areas(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The ledger's rows by area, in the suite's order of areas."""
    rows: dict[str, list[dict[str, Any]]] = {}
    part_of = findings_of(judged)
    for one in judged:
        rows.setdefault(one.claim.area, []).append(ledger_rows.row_view(one) | {"findings": part_of[one.claim.id]})
    return [{"name": area, "title": TITLES[area], "rows": rows[area]} for area in AREAS if area in rows]


def lead(judged: Sequence[Judged]) -> str:
    """The ledger in two sentences; what does not occur is left out."""
    count = {word.key: n for word, n in ledger_rows.tally(judged)}
    said = {
        "reproduced": "reproduced by a measurement",
        "counted": "counted on the real modules",
        "recomputed": "recomputed by our own arithmetic",
        "model": "consistent with a model that could still be refuted",
        "proxy": "supported by a small proxy only",
    }
    left = {"deviates": "deviate", "ambiguous": "are ambiguous", "untested": "are not tested here"}
    agree = sum(count[key] for key in said)
    kinds = joined([f"{count[key]} {words}" for key, words in said.items() if count[key]])
    rest = joined([f"{count[key]} {words}" for key, words in left.items() if count[key]])
    first = f"Of {len(judged)} published numbers {agree} agree{f': {kinds}' if kinds else ''}."
    return f"{first} {rest}." if rest else first


def masthead(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Device, code and dates of the runs."""
    found = []
    for i, run in enumerate(runs):
        mark = f" {i + 1}" if len(runs) > 1 else ""
        found += [(f"Device{mark}", device_name(run.info)), (f"Code{mark}", revision(run.info))]
        if segments := run.info["segments"]:
            profiles = ", ".join(dict.fromkeys(segment["profile"] for segment in segments))
            found += [(f"Measured{mark}", min(segment["start"] for segment in segments)[:10])]
            found += [(f"Profile{mark}", profiles)]
    return found or [("Runs", "none: only what formulas say")]


def model_parts(described: model_tables.Descriptions, judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The sections made of presets alone: KV cache, GFLOPs, parameters, each with charts and tables."""
    drawn = available()
    return [
        {
            "id": "kv",
            "title": "KV cache",
            "text": "Bytes that every further token of a sequence adds, and what a whole sequence takes.",
            "charts": charts.kv_charts(described, judged) if drawn else [],
            "note": "" if drawn else NO_CHARTS,
            "tables": [model_tables.kv_table(described), model_tables.sequence_table(described)],
        },
        {
            "id": "gflops",
            "title": "GFLOPs per token",
            "text": "One model has many such numbers; each stands under its convention.",
            "charts": charts.flops_charts(described, judged) if drawn else [],
            "note": "" if drawn else NO_CHARTS,
            "tables": [model_tables.flops_table(described), *model_tables.convention_tables(described)],
        },
        {
            "id": "parameters",
            "title": "Parameters",
            "text": "Stored and activated, as each config gives them.",
            "charts": [],
            "note": "",
            "tables": [model_tables.params_table(described)],
        },
    ]
