"""v3bench compile: what a run would launch is in the folder, once, wherever the folder lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from v3bench.kernels import tables
from v3bench.model_ref.errors import BadInput
from v3bench.suite import compile
from v3bench.suite.ledger import cases
from v3bench.suite.trials import registry

ROOT = Path(__file__).resolve().parents[2]
OLDEST = ROOT / "build" / "triton-3.6.0"  # made by `make test-slow`


def test_every_shape_of_every_case_is_launched_once() -> None:
    shapes = compile.launched()
    assert {one["op"] for one in shapes} == set(registry.FILES)
    assert len({str(one) for one in shapes}) == len(shapes)
    timed = cases.load()["mla-decode-h128-4k"].dimensions
    checked = cases.load()["check-linear"].shape["shapes"]
    for op, shape in [("paged_mla", timed), *(("fp8_linear", shape) for shape in checked)]:
        assert {"op": op, "shape": shape, "wanted": [], "gpu": tables.HOPPER} in shapes
    assert {one["op"] for one in compile.launched(["route"])} == {"route"}


def test_the_gpus_that_tables_name_are_launched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    row = tables.Row(device="NVIDIA H200", shape={}, config={}, basis="measured", source="", predicted={}, triton="")
    rows = tables.rows
    monkeypatch.setattr(tables, "rows", lambda op: (*rows(op), row))
    assert {one["gpu"] for one in compile.launched()} == {tables.HOPPER, "NVIDIA H200"}


def test_an_unknown_operation_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown operation 'gem'"):
        compile.fill(tmp_path / "cache", ["gem"])
    assert not (tmp_path / "cache").exists()


def test_what_cannot_be_launched_is_told_and_the_rest_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"N": 1}, {"N": 0, "K": 256}, {"N": 256, "K": 256}
    asked = [{"op": "quantize_blocks", "shape": shape, "wanted": [], "gpu": tables.HOPPER} for shape in shapes]
    monkeypatch.setattr(compile, "launched", lambda ops: asked)
    cache = compile.fill(tmp_path, processes=1)
    assert (cache.launched, cache.compiled, cache.found) == (3, 1, 0)
    assert cache.failed == [
        "quantize_blocks at N=1: KeyError: 'K'", "quantize_blocks at N=0, K=256: launches nothing"
    ]  # fmt: skip
    assert cache.lines()[0] == "not in it: quantize_blocks at N=1: KeyError: 'K'"


@pytest.mark.slow
@pytest.mark.parametrize("triton", [None, OLDEST])
def test_a_folder_that_was_carried_elsewhere_holds_all_that_is_asked_for(tmp_path: Path, triton: Path | None) -> None:
    if triton and not (triton / "triton").is_dir():
        pytest.skip(f"needs Triton 3.6.0 in {triton.relative_to(ROOT)}: make test-slow")
    ops = ["quantize_blocks", "fp8_linear", "unpermute"]
    first = compile.fill(tmp_path / "here", ops, triton=triton)
    assert (first.failed, first.found) == ([], 0)
    assert first.compiled >= len(ops)
    assert triton is None or first.compilers["triton"] == "3.6.0"
    there = shutil.move(tmp_path / "here", tmp_path / "there")
    second = compile.fill(there, ops, triton=triton)
    assert (second.failed, second.compiled, second.found) == ([], 0, first.compiled)
    assert f"TRITON_CACHE_DIR={there} v3bench run --only kernels --device cuda" in second.lines()
