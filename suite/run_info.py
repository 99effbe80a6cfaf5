"""What run.json holds, field by field; schemas/run.schema.json says the same for other programs."""

from __future__ import annotations

from typing import Any

from v3bench.model_ref.errors import BadInput

SCHEMA = 1

# A field's kind: a type, a tuple of alternatives, a list of one kind, or a table of fields; str -> str is Names.
Names = "names"
SEGMENT: dict[str, Any] = {
    "command": str,
    "profile": str,
    "areas": [str],
    "device": str,
    "launch": str,
    "start": str,
    "end": (str, None),
    "exit": (int, None),
}
INFO: dict[str, Any] = {
    "schema": int,
    "commit": (str, None),
    "dirty": bool,
    "lock_sha256": (str, None),
    "packages": Names,
    "python": str,
    "platform": str,
    "device": str,
    "cpu": {"model": str, "cores": int, "threads": int, "memory_bytes": int},
    "gpus": [{"name": str, "memory_bytes": int, "capability": str, "sms": (int, None), "l2_bytes": (int, None)}],
    "driver": (str, None),
    "segments": [SEGMENT],
}


def check_info(raw: Any, where: str) -> dict[str, Any]:
    """run.json's content as it is, once it holds every field and no other. Raises BadInput naming the field."""
    version = raw.get("schema") if isinstance(raw, dict) else None
    if isinstance(version, int) and version != SCHEMA:
        raise BadInput(f"has schema version {version}", where=where, right=f"{SCHEMA}, which this v3bench reads")
    check(raw, INFO, "run", where)
    return dict(raw)


def check(value: Any, kind: Any, name: str, where: str) -> None:
    """Raise BadInput unless ``value`` is of the ``kind`` that the tables above describe."""
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            raise BadInput(f"{name} is {value!r}", where=where, right="a table")
        if odd := sorted(kind.keys() ^ value.keys()):
            raise BadInput(f"{name} {'lacks' if odd[0] in kind else 'has an unknown field'} {odd[0]!r}", where=where)
        for field, of in kind.items():
            check(value[field], of, f"{name}.{field}", where)
    elif isinstance(kind, list):
        if not isinstance(value, list):
            raise BadInput(f"{name} is {value!r}", where=where, right="a list")
        for n, item in enumerate(value):
            check(item, kind[0], f"{name}[{n}]", where)
    elif kind == Names:
        if not isinstance(value, dict) or not all(isinstance(x, str) for x in value.values()):
            raise BadInput(f"{name} is {value!r}", where=where, right="names with text")
    else:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not any(
            value is None if of is None else isinstance(value, of) and (of is bool or not isinstance(value, bool))
            for of in kinds
        ):
            right = " or ".join("null" if of is None else of.__name__ for of in kinds)
            raise BadInput(f"{name} is {value!r}", where=where, right=right)
