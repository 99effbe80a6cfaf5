"""Findings stand with their figures and with the verdicts of the claims they are about."""

from v3bench.suite.ledger import findings
from v3bench.suite.report.findings_view import finding_views, findings_of


def test_every_finding_is_shown_in_order_with_every_claim(judged):
    views = finding_views(judged)
    assert [view["name"] for view in views] == [finding.name for finding in findings.load()]
    for view, finding in zip(views, findings.load(), strict=True):
        assert [claim["id"] for claim in view["claims"]] == list(finding.claims)
        assert len(view["figures"]) == len(finding.figures)
        assert all(figure["value"] for figure in view["figures"]), view["figures"]


def test_a_figure_shows_its_arithmetic(judged):
    figures = {figure["says"]: figure for view in finding_views(judged) for figure in view["figures"]}
    assert figures["quotient of the two caches"] == {
        "says": "quotient of the two caches",
        "how": "516096 B / 70272 B",
        "value": "7.34426\u00a0\u00d7",
    }


def test_claims_know_their_findings_and_a_part_of_the_ledger_shows_its_part(judged):
    some = [one for one in judged if one.claim.id == "kv-cache-deepseek-v3"]
    assert findings_of(some)["kv-cache-deepseek-v3"][0]["name"] == "kv-multiple-is-7-34"
    shown = {claim["id"] for view in finding_views(some) for claim in view["claims"]}
    assert shown == {"kv-cache-deepseek-v3"}
