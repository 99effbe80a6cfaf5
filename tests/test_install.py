"""One import root: nothing of ours is importable as a top-level name, and the wheel runs from PYTHONPATH."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def python(*code: str, cwd: Path = ROOT, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    return subprocess.run([sys.executable, *code], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from what git would ship."""
    work = tmp_path_factory.mktemp("wheel")
    pip = ["-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--no-index"]
    built = python(*pip, "-w", str(work), str(ROOT), cwd=work)
    assert built.returncode == 0, built.stderr
    (found,) = work.glob("v3bench-*.whl")
    return found


def test_transformers_imports_from_inside_the_checkout() -> None:
    pytest.importorskip("transformers")
    done = python("-c", "from transformers import DeepseekV3ForCausalLM; print(DeepseekV3ForCausalLM.__name__)")
    assert done.stdout.strip() == "DeepseekV3ForCausalLM", done.stderr


def test_the_wheel_holds_one_top_level_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"v3bench"}


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "kernels", "model_ref", "baselines", "suite"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shipped = {"v3bench/" + line for line in listed.stdout.split() if not line.startswith("suite/root/")}
    assert shipped <= names, sorted(shipped - names)


def test_the_unpacked_wheel_runs_on_pythonpath(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    where = python("-c", "import v3bench.suite.cli as cli; print(cli.__file__)", cwd=tmp_path, path=tmp_path / "site")
    assert where.stdout.startswith(str(tmp_path)), where.stderr
    done = python("-m", "v3bench", "model", "deepseek-v3", "--json", cwd=tmp_path, path=tmp_path / "site")
    assert json.loads(done.stdout)["name"] == "deepseek-v3", done.stderr


def test_the_lock_names_versions_only_and_agrees_with_the_ranges() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines)
    assert locked["torch"] == "2.13.0"
    assert locked["triton"] == "3.7.1"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {canonicalize_name(name): version for name, version in locked.items()}
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
