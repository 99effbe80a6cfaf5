"""After the tests and the smoke report: every skip is on the list, every claim is in the report, no check errored."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def unexpected_skips() -> list[str]:
    """Skips of the two test runs that no line of allowed_skips.txt matches."""
    lines = (ROOT / ".ci" / "allowed_skips.txt").read_text().splitlines()
    allowed = [re.compile(line) for line in lines if line and not line.startswith("#")]
    found = []
    for name in ("test.xml", "test-slow.xml"):
        for case in ElementTree.parse(ROOT / "build" / name).iter("testcase"):
            for skip in case.iter("skipped"):
                text = f"{case.get('classname')}::{case.get('name')}: {skip.get('message')}"
                if not any(pattern.search(text) for pattern in allowed):
                    found.append(f"skipped, and not in .ci/allowed_skips.txt: {text}")
    return found


class Anchors(HTMLParser):
    """The ids of a page's elements."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids |= {value for key, value in attrs if key == "id" and value}


def missing_claims() -> list[str]:
    """Claims without their anchor in the report that `make report` printed, and checks that errored."""
    printed = (ROOT / "build" / "report.txt").read_text()
    (path,) = re.findall(r"^report: (.+)$", printed, re.MULTILINE)
    page = ROOT / path
    anchors = Anchors()
    anchors.feed(page.read_text())
    judged = subprocess.run(
        [sys.executable, "-m", "v3bench", "claims", str(page.parent), "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    wrong = [] if judged.returncode == 0 else [f"v3bench claims exited {judged.returncode}: {judged.stderr.strip()}"]
    claims = json.loads(judged.stdout)["claims"]
    return wrong + [f"not in the report: {claim['id']}" for claim in claims if claim["id"] not in anchors.ids]


if __name__ == "__main__":
    problems = unexpected_skips() + missing_claims()
    sys.stdout.write("".join(f"{line}\n" for line in problems) or "skips, claims and checks are as they should be\n")
    sys.exit(bool(problems))
