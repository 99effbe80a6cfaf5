"""Where numbers come from: the documents of the ledger, and how surely each number was read there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.data import choose, record, table

Status = Literal["confirmed", "recomputed", "inference", "memory"]
MEANING = {
    "confirmed": "read in the source named",
    "recomputed": "own arithmetic from numbers of the source named",
    "inference": "a reading that no source states",
    "memory": "remembered; the source's text was not seen, so it decides nothing",
}


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document that claims are read in."""

    title: str
    version: str
    place: str  # how to find it: an arXiv number, a repository and commit


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place in one document."""

    document: str
    place: str
    status: Status = "confirmed"
    note: str = ""

    def line(self) -> str:
        """The source for people: title, place, how surely it was read."""
        note = f"; {self.note}" if self.note else ""
        return f"{documents()[self.document].title}, {self.place} ({self.status}{note})"


@cache
def documents() -> dict[str, Document]:
    """Every document by its short name. Raises BadInput."""
    return {name: record(Document, raw, f"documents.toml: {name}") for name, raw in table("documents").items()}


def check(source: Source, where: str) -> None:
    """Raise BadInput when the document is not known or the place in it is not said."""
    choose(source.document, documents(), "document", where)
    if not source.place:
        raise BadInput("source has no place", where=where, right="section, table or file")
