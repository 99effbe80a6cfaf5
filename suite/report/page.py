"""The report: one HTML file of everything the runs and the ledger say, that needs no network and no eval.

The page is a pure function of runs and ledger: no time, no path, no random name. The template only lays out.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from v3bench import __version__
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.verdict import Judged
from v3bench.suite.meter.machine import device_name
from v3bench.suite.meter.measurement import AREAS
from v3bench.suite.report import charts, ledger_rows, model_tables, run_tables
from v3bench.suite.report.bundle import Bundle, available
from v3bench.suite.report.display import MISSING
from v3bench.suite.report.frames import measurements_frame
from v3bench.suite.run_folder import Run, revision, write_whole

TEMPLATES = Path(__file__).parent / "templates"
TITLES = {
    "model": "The model", "kv_cache": "KV cache", "flops": "Training cost in GFLOPs per token", "fp8": "FP8 training",
    "mtp": "Multi-token prediction", "tpot": "Time per output token", "kernels": "Kernels and libraries",
    "kv_variants": "KV cache variants", "deployment": "Deployment and serving", "fabric": "Interconnect and topology",
    "expert_parallel": "Expert parallelism",
}  # fmt: skip


def render(runs: Sequence[Run], judged: Sequence[Judged]) -> str:
    """The page of these runs and this judged ledger, as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with Bundle() as bundle:
        context = page_context(runs, judged)
        scripts = {"bundle": inline_script(bundle.text()), "script": inline_script(source("report.js"))}
    hashes = " ".join(f"'sha256-{digest(text)}'" for text in scripts.values() if text)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return environment.get_template("page.html.j2").render(
        **context,
        **{name: Markup(text) for name, text in scripts.items()},
        css=Markup(source("report.css")),
        policy=policy,
    )


def page_context(runs: Sequence[Run], judged: Sequence[Judged]) -> dict[str, Any]:
    """All that the template lays out, scripts and style apart."""
    records = measurements_frame(runs)
    described = model_tables.descriptions()
    parts = model_parts(described, judged)
    findings = findings_of(judged)
    return {
        "version": __version__, "missing": MISSING, "bases": ledger_rows.BASES, "judged_count": len(judged),
        "areas": areas_of(judged), "tally": ledger_rows.tally(judged), "tally_table": ledger_rows.tally_table(judged),
        "lead": lead(judged), "facts": masthead(runs), "warnings": run_tables.warnings(runs), "findings": findings,
        "model_parts": parts, "measured": run_tables.measured_tables(runs, records),
        "untaken": run_tables.untaken_table(records),
        "environment": [run_tables.environment_table(runs), run_tables.segments_table(runs)] if runs else [],
        "contents": [
            *([{"id": "findings", "title": "Findings"}] if findings else []),
            *({"id": part["id"], "title": part["title"]} for part in parts),
            {"id": "measurements", "title": "Measurements"}, {"id": "environment", "title": "Environment"},
            {"id": "raw", "title": "Raw data"},
        ],
    }  # fmt: skip


def areas_of(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The ledger's rows by area, in the suite's order of areas."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in judged:
        rows.setdefault(one.claim.area, []).append(ledger_rows.row_view(one))
    return [{"name": area, "title": TITLES[area], "rows": rows[area]} for area in AREAS if area in rows]


def lead(judged: Sequence[Judged]) -> str:
    """The ledger in one sentence."""
    count = {word.key: n for word, n in ledger_rows.tally(judged)}
    measured = count["reproduced"] + count["proxy"]
    return (
        f"Of {len(judged)} published numbers, {count['recomputed']} agree with our own arithmetic, {count['counted']} with a count "
        f"on the real modules, {measured} with a measurement ({count['proxy']} of them on a small proxy only) and {count['model']} with a "
        f"model that could still be refuted; {count['deviates']} deviate, {count['ambiguous']} are ambiguous, and "
        f"{count['untested']} are not tested here."
    )


def masthead(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Device, code and dates of the runs."""
    found = []
    for i, run in enumerate(runs):
        mark = f" {i + 1}" if len(runs) > 1 else ""
        starts = [segment["start"] for segment in run.info["segments"]]
        found += [(f"Device{mark}", device_name(run.info)), (f"Code{mark}", revision(run.info))]
        if starts:
            profiles = ", ".join(dict.fromkeys(segment["profile"] for segment in run.info["segments"]))
            found += [(f"Measured{mark}", min(starts)[:10]), (f"Profile{mark}", profiles)]
    return found or [("Runs", "none: only what formulas say")]


def model_parts(described: model_tables.Descriptions, judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The sections made of presets alone: KV cache, GFLOPs, parameters, each with charts and tables."""
    values, meanings = model_tables.convention_tables(described)
    drawn = available()
    missing = (
        ""
        if drawn
        else "Charts need the packages altair and vl-convert-python, which were not installed; the tables hold the same numbers."
    )
    return [
        {"id": "kv", "title": "KV cache", "text": "Bytes that every further token of a sequence adds, and what a whole sequence takes.",
         "charts": charts.kv_charts(described, judged) if drawn else [], "missing": missing,
         "tables": [model_tables.kv_table(described), model_tables.sequence_table(described)]},
        {"id": "gflops", "title": "GFLOPs per token", "text": "One model has many such numbers; each stands under its convention.",
         "charts": charts.flops_charts(described, judged) if drawn else [], "missing": missing,
         "tables": [model_tables.flops_table(described), values, meanings]},
        {"id": "parameters", "title": "Parameters", "text": "Stored and activated, as each config gives them.",
         "charts": [], "missing": "", "tables": [model_tables.params_table(described)]},
    ]  # fmt: skip


def findings_of(judged: Sequence[Judged]) -> list[Mapping[str, Any]]:
    """The disagreements found, worst first."""
    return []


def source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def inline_script(text: str) -> str:
    """Script text that cannot end its own element."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("\r\n", "\n")


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write(path: str | Path, html: str) -> None:
    """Write the page whole or not at all. Raises BadInput where it cannot be written."""
    try:
        write_whole(Path(path), html)
    except OSError as error:
        right = "a file in a folder that exists and has room"
        raise BadInput(f"cannot be written ({error.strerror})", where=str(path), right=right) from error
