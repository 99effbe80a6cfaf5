"""README says what the committed run and the command line say."""

import importlib.util
import re
from pathlib import Path

from v3bench.suite import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_results_table_is_what_the_committed_run_gives() -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    assert "| Claim |" in README
    assert readme.rewritten(README) == README, "run `make readme`"


def test_every_command_that_readme_names_exists() -> None:
    named = set(re.findall(r"v3bench (\w+)", README)) - {"is", "keeps"}
    known = {action for sub in cli.parser()._subparsers._group_actions for action in sub.choices}  # type: ignore[union-attr]
    assert named == known


def test_every_file_that_readme_links_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
