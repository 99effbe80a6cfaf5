"""The report: one HTML file of everything the runs and the ledger say, that needs no network and no eval.

The page is a pure function of runs and ledger: no time, no path, no random name. The template only lays out.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.verdict import Judged
from v3bench.suite.report.bundle import Bundle
from v3bench.suite.report.context import page_context
from v3bench.suite.run_folder import Run, write_whole

TEMPLATES = Path(__file__).parent / "templates"
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Only the page's own two scripts run, each named by its hash; nothing is loaded from anywhere.
POLICY = (
    "default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


def render(runs: Sequence[Run], judged: Sequence[Judged], bundle: Bundle | None = None) -> str:
    """The page of these runs and this judged ledger, as HTML text.

    bundle: the charts' script, where the caller has begun to make it while it read the runs.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=True, trim_blocks=True,
        lstrip_blocks=True, finalize=printable,
    )  # fmt: skip
    with bundle or Bundle() as making:
        context = page_context(runs, judged)
        scripts = {"bundle": inline_script(making.text()), "script": inline_script(source("report.js"))}
    policy = POLICY.format(hashes=" ".join(f"'sha256-{digest(text)}'" for text in scripts.values() if text))
    own = {name: Markup(text) for name, text in {**scripts, "css": source("report.css")}.items()}
    return environment.get_template("page.html.j2").render(**context, **own, policy=policy)


def printable(value: object) -> object:
    """Text without control characters, which no HTML file may hold; the page's own markup as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def source(name: str) -> str:
    """One of the page's own files, as text."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def inline_script(text: str) -> str:
    """Script text that cannot end its own element, with line ends as a browser reads them."""
    return text.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def digest(text: str) -> str:
    """SHA-256 as a Content-Security-Policy writes it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write(path: str | Path, html: str) -> None:
    """Write the page whole or not at all. Raises BadInput where it cannot be written."""
    try:
        write_whole(Path(path), html)
    except OSError as error:
        right = "a file in a folder that exists and has room"
        raise BadInput(f"cannot be written ({error.strerror})", where=str(path), right=right) from error
