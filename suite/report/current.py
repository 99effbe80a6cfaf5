"""Which of a run's records a reader is shown: what a case measured last, of the version that it has now."""

from __future__ import annotations

from collections.abc import Iterable

from v3bench.suite.ledger import cases
from v3bench.suite.meter.measurement import Measurement


def current(records: Iterable[Measurement], *, area: str = "", bench: str = "") -> list[Measurement]:
    """The last ok record of each series, in the order they were made; of one area or one benchmark, where it is named.

    A record of another version of its case, or of a case that is gone, means something else.
    """
    known = {
        case.name: case.version for case in cases.load().values()
        if area in ("", case.area) and bench in ("", case.bench)
    }  # fmt: skip
    found: dict[tuple[str, ...], Measurement] = {}
    for m in records:
        if m.status == "ok" and known.get(m.case) == m.case_version:
            key = (m.case, m.subject, m.impl, m.metric, m.convention, m.device)
            found.pop(key, None)  # so that it stands where it was made last
            found[key] = m
    return list(found.values())
