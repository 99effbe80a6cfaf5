"""The ledger's findings laid out: each with the figures that show it and the claims it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import findings
from v3bench.suite.ledger.findings import Figure, Finding
from v3bench.suite.ledger.verdict import Judged
from v3bench.suite.report.display import amount
from v3bench.suite.report.ledger_rows import word_of

STATUS = {
    "recomputed": "our own arithmetic shows it",
    "inference": "a reading that no source states",
    "sources": "two sources print different things",
}


def finding_views(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Every finding in order of weight; of its claims those that are in this ledger, with their verdicts."""
    words = {one.claim.id: word_of(one) for one in judged}
    return [
        {
            "name": finding.name,
            "title": finding.title,
            "statement": said(finding),
            "status": finding.status,
            "meaning": STATUS[finding.status],
            "claims": [{"id": name, "word": words[name]} for name in finding.claims if name in words],
            "figures": [figure_view(figure) for figure in finding.figures],
        }
        for finding in findings.load()
    ]


def said(finding: Finding) -> str:
    """The statement with its figures put in; as it stands where one of them fails, which the figure's row then says."""
    try:
        return finding.said
    except BadInput:
        return finding.statement


def figure_view(figure: Figure) -> dict[str, str]:
    """What a figure says, the arithmetic of its last step with the numbers put in, and its value or why it has none."""
    try:
        step = figure.worked
    except BadInput as error:
        return {"says": figure.says, "how": f"fails: {error}", "value": ""}
    return {"says": figure.says, "how": step.filled, "value": amount(step.shown, step.value.unit)}


def findings_of(judged: Sequence[Judged]) -> dict[str, list[dict[str, str]]]:
    """Claim id -> the findings it is part of."""
    found: dict[str, list[dict[str, str]]] = {}
    for finding in findings.load():
        for name in finding.claims:
            found.setdefault(name, []).append({"name": finding.name, "title": finding.title})
    return {one.claim.id: found.get(one.claim.id, []) for one in judged}
