"""Tuning without a GPU: candidates are compiled, ranked and written, and what is unusable is dropped."""

import json
import re
from dataclasses import replace
from importlib.metadata import version

import pytest
from v3bench.kernels import catalog
from v3bench.model_ref.errors import BadInput
from v3bench.suite import tune
from v3bench.suite.meter import progress
from v3bench.suite.meter.compiled import Built

FINE = Built(
    triton="3.7.1", name="k", programs=10_000, l2_bytes=0, passes=0, warps=4, registers=32, stack_bytes=0,
    shared_bytes=0, instructions={"FADD": 100}, loop={}, loop_flops=0, loop_bytes=0, spills=False, ctas_per_sm=8,
)  # fmt: skip
SLOW = replace(FINE, instructions={"FADD": 10**6})
SHAPE = {"M": 4096, "K": 7168}
CONFIGS = [{"n": n} for n in range(4)]


def test_what_spills_does_not_fit_or_does_not_compile_is_dropped():
    outcomes = [(replace(FINE, spills=True),), (replace(FINE, ctas_per_sm=0),), "broken", (FINE,)]
    assert [entry.config for entry in tune.rank("quantize_tiles", SHAPE, CONFIGS, outcomes)] == [{"n": 3}]


def test_the_faster_prediction_comes_first_and_a_tie_keeps_the_order():
    outcomes = [(SLOW,), (FINE,), (FINE,), (SLOW,)]
    ranked = tune.rank("quantize_tiles", SHAPE, CONFIGS, outcomes)
    assert [entry.config["n"] for entry in ranked] == [1, 2, 0, 3]


@pytest.fixture
def small(monkeypatch):
    module = catalog.module("quantize_blocks")
    monkeypatch.setitem(module.CANDIDATES, "quantize_blocks", [{"num_warps": 8}])
    monkeypatch.setitem(module.TABLE_SHAPES, "quantize_blocks", [{"N": 256, "K": 256}])


def test_a_table_is_written_and_keeps_the_rows_of_other_devices(small, tmp_path):
    old = {
        "device": "NVIDIA H200", "shape": {"N": 1, "K": 1}, "config": {"num_warps": 4}, "basis": "measured",
        "source": "v3bench tune", "triton": "3.6.0", "predicted": {},
    }  # fmt: skip
    (tmp_path / "quantize_blocks.json").write_text(json.dumps({"op": "quantize_blocks", "rows": [old]}))
    said = []
    (path,) = tune.tune(["quantize_blocks"], folder=tmp_path, say=said.append)
    new, kept = json.loads(path.read_text())["rows"]
    assert kept == old
    assert new["device"] == "sm_90"
    assert new["basis"] == "modelled"
    assert new["config"] == {"num_warps": 8}
    assert new["predicted"]["programs"] == 4
    assert new["triton"] == version("triton")
    assert said == ["quantize_blocks: 1 candidates at 1 shapes"]


def test_what_is_compiled_is_said_while_it_goes_on(small, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", 0.0)
    said, candidates = [], [{"num_warps": 8}, {"num_warps": 4}]
    monkeypatch.setitem(catalog.module("quantize_blocks").CANDIDATES, "quantize_blocks", candidates)
    tune.tune(["quantize_blocks"], folder=tmp_path, say=said.append)
    first, second = said
    assert first == "quantize_blocks: 2 candidates at 1 shapes"
    assert re.fullmatch(r"quantize_blocks: 1 of 2 compiled, about \d:\d\d left", second)


@pytest.mark.parametrize(
    "broken", ["{bad", "[]", '{"rows": 3}', '{"rows": [{}]}', '{"rows": [{"device": "NVIDIA H200"}]}']
)
def test_a_file_that_is_no_table_is_refused_before_anything_is_compiled(tmp_path, monkeypatch, broken):
    monkeypatch.setattr(tune, "compile_all", lambda jobs, **_: pytest.fail("compiled"))
    (tmp_path / "route.json").write_text(broken)
    with pytest.raises(BadInput, match=r"route\.json: is no launch table \(.+\); expected one that v3bench tune wrote"):
        tune.tune(["quantize_blocks", "route"], folder=tmp_path)
    assert (tmp_path / "route.json").read_text() == broken


def test_a_table_that_cannot_be_written_is_one_line(small, tmp_path):
    (tmp_path / "quantize_blocks.json").mkdir()
    with pytest.raises(BadInput, match=r"quantize_blocks\.json: cannot be written \(Is a directory\); expected --out"):
        tune.tune(["quantize_blocks"], folder=tmp_path)


def test_short_names_are_those_of_impl_and_an_operation_named_twice_is_tuned_once(small, tmp_path, monkeypatch):
    monkeypatch.setitem(tune.own.ALIASES, "blocks", "quantize_blocks")
    paths = tune.tune(["blocks", "quantize_blocks"], folder=tmp_path)
    assert paths == [tmp_path / "quantize_blocks.json"]


def test_unknown_operations_and_hopeless_candidates_are_refused(small, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"unknown operation 'gem'; expected one of .*; short mla_decode"):
        tune.tune(["gem"], folder=tmp_path)
    monkeypatch.setattr(tune, "compile_all", lambda jobs, **_: ["broken"] * len(jobs))
    with pytest.raises(BadInput, match=r"no candidate of quantize_blocks is usable at .*: broken"):
        tune.tune(["quantize_blocks"], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_machine_that_predictions_are_for():
    target = tune.machine()
    assert target.sms == 132
    assert target.bandwidth == 4.3e12
    assert target.l2_bandwidth == 6e12
    assert target.launch == pytest.approx(2e-6)
    assert target.flop_rate == {"fp8": 1400e12, "bf16": 790e12}
