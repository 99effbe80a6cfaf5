"""The doctor says what runs, what is skipped and why, in JSON and in lines."""

from __future__ import annotations

import json
import sys

import pytest
from v3bench.suite import doctor
from v3bench.suite.ledger import cases


@pytest.fixture(scope="module")
def found():
    return doctor.report()


def test_the_report_is_json_and_every_case_has_its_fate(found):
    assert json.loads(json.dumps(found)) == found
    assert [row["case"] for row in found["cases"]] == list(cases.load())
    assert all(row["runs"] == (row["why"] == "") for row in found["cases"])
    assert {"fp8", "kernels", "tpot"} & set(found["areas_without_benchmark"]) <= {"fp8", "kernels"}


def test_the_lines_name_every_skip_with_its_reason(found):
    lines = doctor.text(found)
    assert lines[0].startswith(f"device: {found['device']} (")
    assert any("checkpoint-given: runs only with --checkpoint DIR" in line for line in lines)
    assert all("\n" not in line for line in lines)
    for check in found["checks"]:
        assert any(check["name"] in line and check["found"] in line for line in lines)


def test_a_package_that_an_import_hook_refuses_is_missing(monkeypatch):
    class Hook:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "altair":
                raise ModuleNotFoundError(name)

    for module in [name for name in sys.modules if name.split(".")[0] == "altair"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Hook, *sys.meta_path])
    assert not doctor.installed("altair")
    assert doctor.installed("torch")


def case(**changes):
    return cases.read("c", {**{
        "area": "kv_cache", "bench": "allocated", "metric": "kv_bytes_per_token", "basis": "measured", "version": 1,
        "subjects": ["llama-3.1-405b", "deepseek-v3"], "profiles": ["full"], "why": "x", "batch": 2,
        "lengths": [1, 4096],
    }, **changes}, "c")  # fmt: skip


def test_caches_that_do_not_fit_are_named_with_the_memory_they_need():
    row = doctor.fate(case(), 4 << 30, "cpu", {"transformers": True})
    assert not row["runs"]
    # 2 sequences of 4096 tokens at 516,096 bytes, which is 4.2 GB; DeepSeek-V3's 0.6 GB fit.
    assert row["why"] == "llama-3.1-405b needs 4.2 GB of cpu memory and 1.1 GB spare; 4.3 GB are available"
    assert doctor.fate(case(), 16 << 30, "cpu", {"transformers": True})["runs"]


def test_a_missing_package_is_a_reason():
    racing = case(bench="decode", impls=["torch", "transformers"])
    assert doctor.fate(racing, 0, "cpu", {"transformers": False})["why"] == "the transformers package is not installed"
    assert doctor.fate(racing, 0, "cpu", {"transformers": True})["runs"]


def test_a_gpu_that_torch_cannot_use_is_said():
    facts = {"gpus": [{"name": "Card"}], "commit": None}
    torch = {"version": "2", "cuda": None, "error": None}
    rows = {row["name"]: row for row in doctor.checks(torch, facts, dict.fromkeys(doctor.OPTIONAL, True), 0)}
    assert rows["GPU"]["consequence"] == "is not used: this build of torch sees no CUDA device"
    assert rows["disk"]["consequence"]
    assert rows["commit"]["consequence"]
    assert rows["transformers"]["consequence"] == ""


def test_a_missing_torch_is_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    state = doctor.torch_state()
    assert state["version"] is None
    assert "torch" in state["error"]


def test_what_needs_a_gpu_is_said_once_and_not_case_by_case():
    timed = case(area="kernels", bench="timed", device="cuda", subjects=["kernels.fp8_gemm"], impls=["triton"])
    assert doctor.fate(timed, 0, "cpu", {"triton": True})["why"] == "needs a CUDA device"
    assert doctor.fate(timed, 0, "cuda", {"triton": True})["runs"]
    assert doctor.fate(timed, 0, "cuda", {"triton": False})["why"] == "triton is not installed"
    rows = [{"case": f"c{n}", "area": "kernels", "runs": False, "why": "needs a CUDA device"} for n in range(5)]
    assert doctor.skipped([*rows, {**rows[0], "runs": True}]) == [
        "    skipped: kernels c0, c1, c2 and 2 more: needs a CUDA device"
    ]


def test_the_kernels_have_a_line_of_their_own(found):
    lines = [line for line in doctor.text(found) if line.startswith("kernels: ")]
    assert len(lines) == 1
    own = [row for row in found["cases"] if row["area"] == "kernels"]
    assert f"{sum(row['runs'] for row in own)} of {len(own)} cases run" in lines[0]
    gpu = doctor.kernels({"device": "cuda", "cases": [{"area": "kernels", "runs": True}]})
    assert gpu == "kernels: 1 of 1 cases run on this GPU: v3bench run --only kernels --profile full"
