"""Write README's table of results anew from the committed run it names: `make readme [RUN=results/...]`."""

import re
import sys
from pathlib import Path

from v3bench.suite.ledger.verdict import judge
from v3bench.suite.report.markdown import results_table
from v3bench.suite.run_folder import load_run

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- results: begin (?P<run>\S*) ?-->\n.*?<!-- results: end -->", re.DOTALL)


def table(run: str) -> str:
    """The block of README for a run folder, given relative to the repository."""
    found = load_run(ROOT / run)
    body = results_table(found, judge(measurements=found.measurements))
    return f"<!-- results: begin {run} -->\n{body}<!-- results: end -->"


def rewritten(readme: str, run: str = "") -> str:
    """README with its table made from ``run``, by default from the run that the block names."""
    block = BLOCK.search(readme)
    if block is None:
        raise SystemExit("README.md has no block <!-- results: begin RUN --> ... <!-- results: end -->")
    return readme[: block.start()] + table(run or block["run"]) + readme[block.end() :]


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(rewritten(path.read_text(), *sys.argv[1:]))
