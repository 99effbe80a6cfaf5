"""The JavaScript that draws the charts: Vega, Vega-Lite and Vega-Embed in one text, made by vl-convert.

Making it takes about two seconds and holds the interpreter's lock, so a child process does it while the page is
worked out. vl-convert and altair are optional: without them there are tables only.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import TracebackType
from typing import Self

MAKE = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name, never fetched; any 6.x of the bundle reads it


def available() -> bool:
    """Whether charts can be made here."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in ("altair", "vl_convert"))
    except (ImportError, ValueError):  # an import hook that refuses, or a half-initialised module
        return False


class Bundle:
    """A bundle in the making: ``with Bundle() as bundle: ...; bundle.text()``."""

    made = ""  # kept for the next page of this process

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        if available() and not Bundle.made:
            self.child = subprocess.Popen([sys.executable, "-c", MAKE], stdout=subprocess.PIPE)

    def text(self) -> str:
        """The script, or nothing where it cannot be made: the page then says so in place of each chart."""
        if self.child is not None:
            made, _ = self.child.communicate()
            Bundle.made = made.decode() if self.child.returncode == 0 else ""
            self.child = None
        return Bundle.made if available() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
