"""Imports run along one line: kernels < model_ref < baselines < suite."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("kernels", "model_ref", "baselines", "suite")
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Every module a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    above = LAYERS[LAYERS.index(layer) + 1 :]
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] not in LAYERS, f"{name}: layers are imported as v3bench.{parts[0]}"
        assert not (parts[0] == "v3bench" and parts[1] in above), f"{name} is above {layer}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_kernels_imports_triton_and_only_suite_reads_clocks_or_arguments(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    roots = {name.split(".")[0] for name in imported(path)}
    assert layer == "kernels" or "triton" not in roots
    assert layer == "suite" or not roots & {"time", "argparse", "jinja2", "pandas", "pytest"}


def test_the_rule_catches_an_import_upwards(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from v3bench.suite import cli\n")
    assert imported(bad) == {"v3bench.suite.cli"}
