"""Reading the suite's TOML files, each with one clear error for a bad one."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from v3bench.model_ref.errors import BadInput

HERE = Path(__file__).parent


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a table. Raises BadInput naming file and line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"is not TOML: {error}", where=str(path)) from error


@cache
def table(name: str) -> dict[str, Any]:
    """One of the ledger's own data files: ``table("metrics")``."""
    return read_toml(HERE / f"{name}.toml")
