"""Reading the suite's TOML files, each with one clear error for a bad one."""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from v3bench.model_ref.errors import BadInput

HERE = Path(__file__).parent
Record = TypeVar("Record")


def read_toml(path: Path, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """A TOML file as a table. Raises BadInput naming file and line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=parse_float)
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"is not TOML: {error}", where=str(path)) from error


@cache
def table(name: str) -> dict[str, Any]:
    """One of the ledger's own data files: ``table("metrics")``."""
    return read_toml(HERE / f"{name}.toml")


def tables(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every TOML file of a folder in order of name, decimals kept as printed. Raises BadInput when there is none."""
    paths = sorted(folder.glob("*.toml"))
    if not paths:
        raise BadInput("holds no .toml file", where=str(folder))
    return [(path, read_toml(path, Decimal)) for path in paths]


@contextmanager
def located(where: str) -> Iterator[None]:
    """Errors raised inside name this place instead of their own."""
    try:
        yield
    except BadInput as error:
        raise BadInput(error.what, where=where, right=error.right) from error


def choose(value: Any, allowed: Iterable[str], what: str, where: str) -> None:
    """Raise BadInput when ``value`` is none of ``allowed``, naming the nearest of them."""
    names = sorted(allowed)
    if value in names:
        return
    near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    raise BadInput(f"{what} {value!r} is unknown", where=where, right=f"one of {', '.join(near or names[:12])}")


def record(cls: type[Record], raw: Any, where: str) -> Record:
    """A table as the dataclass ``cls``: every key known, every required key there, every value of its type.

    Raises BadInput naming the key and what would be right.
    """
    if not isinstance(raw, dict):
        raise BadInput(f"is {raw!r}", where=where, right="a table")
    hints = hints_of(cls)
    own = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]
    for key in raw:
        choose(key, own, "key", where)
    for name, f in own.items():
        if name not in raw and f.default is MISSING and f.default_factory is MISSING:
            raise BadInput(f"lacks {name!r}", where=where)
    return cls(**{key: typed(hints[key], value, f"{where}: {key}") for key, value in raw.items()})


def hints_of(cls: type) -> dict[str, Any]:
    if cls not in HINTS:
        HINTS[cls] = get_type_hints(cls)
    return HINTS[cls]


def typed(hint: Any, value: Any, where: str) -> Any:
    """``value`` as ``hint`` wants it; lists become tuples, tables dataclasses. Raises BadInput."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        choose(value, args, "value", where)
        return value
    if origin in (Union, types.UnionType):
        return typed(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        if args[1:] != (...,) and len(args) != len(value):
            raise BadInput(f"has {len(value)} parts", where=where, right=f"{len(args)}")
        kinds = args if args[1:] != (...,) else (args[0],) * len(value)
        return tuple(typed(kinds[i], part, f"{where}[{i}]") for i, part in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: typed(args[1], part, f"{where}.{key}") for key, part in value.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return record(hint, value, where)
    if hint is float and isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise BadInput(f"is {value!r}", where=where, right=WORDS.get(hint, "a list" if origin is tuple else "a table"))


HINTS: dict[type, dict[str, Any]] = {}
WORDS = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
