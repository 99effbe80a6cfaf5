"""A Triton cache that was carried elsewhere: its lists of files are written anew, whole kernels only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.meter import triton_cache


def listed(folder: Path) -> dict[str, str]:
    paths: dict[str, str] = json.loads((folder / "KEY" / "__grp__k.json").read_text())["child_paths"]
    return paths


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A cache with one kernel, as Triton writes it."""
    folder = tmp_path / "made"
    (folder / "KEY").mkdir(parents=True)
    for name in ("k.json", "k.cubin"):
        (folder / "KEY" / name).write_text(name)
    children = {name: str(folder / "KEY" / name) for name in ("k.json", "k.cubin")}
    (folder / "KEY" / "__grp__k.json").write_text(json.dumps({"child_paths": children}))
    return folder


def test_a_cache_that_was_moved_is_found(made: Path, tmp_path: Path) -> None:
    assert triton_cache.settle(made) == (1, 0)
    there = shutil.move(made, tmp_path / "there")
    assert triton_cache.settle(there) == (1, 1)
    assert {name: Path(path).read_text() for name, path in listed(there).items()} == {
        "k.json": "k.json", "k.cubin": "k.cubin"
    }  # fmt: skip
    assert triton_cache.settle(there) == (1, 0)
    assert [path.name for path in (there / "KEY").iterdir() if "grp" in path.name] == ["__grp__k.json"]


def test_a_kernel_that_lacks_a_file_or_a_list_is_left_to_triton(made: Path) -> None:
    before = listed(made)
    (made / "KEY" / "k.cubin").unlink()
    assert triton_cache.settle(made) == (0, 0)
    assert listed(made) == before
    (made / "KEY" / "__grp__k.json").write_text("[]")
    assert triton_cache.settle(made) == (0, 0)
    assert triton_cache.settle(made / "nowhere") == (0, 0)


def test_a_list_that_cannot_be_written_is_said(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = shutil.move(made, tmp_path / "there")

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton_cache, "write_whole", full)
    with pytest.raises(BadInput, match="made elsewhere, and cannot be written \\(No space left on device\\)"):
        triton_cache.settle(there)


def test_a_run_says_what_was_brought_along(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(triton_cache.VARIABLE, raising=False)
    assert triton_cache.brought() == []
    there = shutil.move(made, tmp_path / "there")
    monkeypatch.setenv(triton_cache.VARIABLE, str(there))
    assert triton_cache.brought() == [f"TRITON_CACHE_DIR={there}: 1 kernels, 1 of them made elsewhere"]
    assert triton_cache.brought() == [f"TRITON_CACHE_DIR={there}: 1 kernels"]
