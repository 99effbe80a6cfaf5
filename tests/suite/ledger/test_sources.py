"""Sources: every document is known and used, and a status says what it means."""

from typing import get_args

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import claims
from v3bench.suite.ledger.sources import MEANING, Source, Status, check, documents


def test_every_document_is_used():
    assert {claim.source.document for claim in claims.load()} == set(documents())


def test_every_status_has_a_meaning():
    assert set(MEANING) == set(get_args(Status))


def test_a_source_as_a_line():
    source = Source(document="isca", place="Table 1", status="inference", note="read off")
    assert source.line() == "Insights into DeepSeek-V3 (ISCA 2025), Table 1 (inference; read off)"


def test_a_document_that_is_not_known():
    with pytest.raises(BadInput, match="x: document 'iscaa' is unknown; expected one of isca"):
        check(Source(document="iscaa", place="here"), "x")


def test_what_is_only_remembered_is_marked():
    remembered = {claim.id for claim in claims.load() if claim.source.status == "memory"}
    assert remembered == {"fabric-slim-fly-router-price"}
