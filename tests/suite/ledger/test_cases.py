"""The table of cases: every case is complete, runs something that exists, and a bad one is named."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.precision import RECIPES
from v3bench.suite import models
from v3bench.suite.budget.quantisers import QUANTISERS
from v3bench.suite.laws import work
from v3bench.suite.ledger import cases, claims
from v3bench.suite.ledger.data import table
from v3bench.suite.meter.competition import LEAST_ENERGY
from v3bench.suite.meter.scale import TENSOR_CORE
from v3bench.suite.train import proxies
from v3bench.suite.trials import registry

BENCH = Path(__file__).parents[3] / "suite" / "bench"
GOOD = {
    "area": "tpot", "bench": "decode", "metric": "decode_time", "basis": "measured", "version": 1,
    "subjects": ["s", "t"], "profiles": ["smoke", "full"], "why": "because", "tokens": 5,
}  # fmt: skip


def functions(path):
    """Benchmark functions of a file: name -> its syntax tree."""
    return {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_case_feeds_a_benchmark_and_every_benchmark_has_a_case():
    named = {(case.area, f"test_{case.bench}") for case in cases.load().values()}
    there = {
        (path.stem.removeprefix("bench_"), name)
        for path in BENCH.glob("bench_*.py") for name in functions(path) if name.startswith("test_")
    }  # fmt: skip
    assert named == there


def test_every_subject_and_metric_exists():
    for case in cases.load().values():
        kernels = {f"kernels.{op}" for op in (*registry.FILES, "ceiling")}
        budget = {*(f"quantiser.{name}" for name in QUANTISERS), *(f"gemm.{name}" for name in RECIPES), TENSOR_CORE}
        trained = {f"proxy.{name}" for name in (*proxies.load(), *RECIPES)}
        named = {"checkpoint", "checkpoint.generated", *claims.FORMATS}
        known = models.presets().keys() | named | kernels | budget | trained
        assert set(case.subjects) <= known, case.name
        assert case.metric in table("metrics"), case.name


def test_every_reason_is_its_own():
    whys = [case.why for case in cases.load().values()]
    assert len(set(whys)) == len(whys)
    assert all(len(why) > 20 for why in whys)


@pytest.mark.parametrize("path", sorted(BENCH.glob("bench_*.py")), ids=lambda path: path.stem)
def test_benchmarks_are_short(path):
    for name, node in functions(path).items():
        assert node.end_lineno - node.lineno < 30, name


def test_series_and_shape_come_from_the_table():
    case = cases.read("c", {**GOOD, "impls": ["torch", "other"]}, "c")
    assert case.series == ("s/torch", "s/other", "t/torch", "t/other")
    assert case.shape == {"tokens": 5}
    assert cases.read("c", GOOD, "c").series == ("s/torch", "t/torch")


@pytest.mark.parametrize(
    "change, what",
    [
        ({"area": "speed"}, "unknown area 'speed'"),
        ({"profiles": ["fast"]}, "unknown profile 'fast'"),
        ({"profiles": []}, "profiles is"),
        ({"subjects": ["s", "s"]}, "different names"),
        ({"subjects": "s"}, "different names"),
        ({"impls": [1]}, "different names"),
        ({"version": 0}, "whole number"),
        ({"version": True}, "whole number"),
        ({"basis": "modelled"}, "counted or measured"),
        ({"why": ""}, "why is ''"),
        ({"metric": 3}, "metric is 3"),
    ],
)
def test_a_bad_case_is_named(change, what):
    with pytest.raises(BadInput, match=what) as error:
        cases.read("c", {**GOOD, **change}, "cases.toml: c")
    assert str(error.value).startswith("cases.toml: c: ")


@pytest.mark.parametrize("key", [key for key in GOOD if key != "tokens"])
def test_a_missing_key_is_named(key):
    with pytest.raises(BadInput, match=f"lacks {key}"):
        cases.read("c", {k: v for k, v in GOOD.items() if k != key}, "c")


def test_a_case_takes_from_another_all_but_shape_and_why(tmp_path):
    path = tmp_path / "cases.toml"
    path.write_text("""
[a]
area = "kernels"
bench = "timed"
metric = "time"
basis = "measured"
version = 2
subjects = ["s"]
impls = ["one", "two"]
device = "cuda"
profiles = ["full"]
M = 1
cold = true
why = "first"

[b]
like = "a"
subjects = ["t"]
N = 5
why = "second"
""")
    b = cases.load(path)["b"]
    assert (b.area, b.bench, b.version, b.impls, b.device) == ("kernels", "timed", 2, ("one", "two"), "cuda")
    assert (b.subjects, b.shape, b.why) == (("t",), {"N": 5}, "second")
    (tmp_path / "lone.toml").write_text('[b]\nlike = "nobody"\n')
    with pytest.raises(BadInput, match="b: is like 'nobody', which is no case"):
        cases.load(tmp_path / "lone.toml")


def test_a_case_for_another_device_says_what_it_needs():
    case = cases.read("c", {**GOOD, "device": "cuda"}, "c")
    assert case.elsewhere("cpu") == "needs a CUDA device"
    assert case.elsewhere("cuda") == cases.read("c", GOOD, "c").elsewhere("cpu") == ""
    with pytest.raises(BadInput, match="unknown device 'tpu'; expected one of cuda, cpu"):
        cases.read("c", {**GOOD, "device": "tpu"}, "c")


def kernels(bench):
    """The kernels' cases of one benchmark, with operation."""
    own = [case for case in cases.load().values() if (case.area, case.bench) == ("kernels", bench)]
    return [(case.subjects[0].removeprefix("kernels."), case) for case in own]


def test_at_most_120_cases_are_timed_each_at_a_shape_of_its_operation():
    timed = kernels("timed")
    assert len(timed) + len(kernels("ceilings")) <= 120
    for op, case in timed:
        assert work.of(op, case.dimensions).nbytes > 0, case.name
        assert (case.device, case.profiles, case.impls[0]) == ("cuda", ("quick", "standard", "full"), "triton")
        assert len(case.subjects) == 1
    shapes = [(op, bool(case.shape.get("cold")), *sorted(case.dimensions.items())) for op, case in timed]
    assert len(set(shapes)) == len(shapes)
    assert {op for op, _ in timed} == registry.FILES.keys()


def test_energy_is_taken_where_it_decides_within_half_a_minute():
    """Of the four minutes that all kernels may take; a cold launch has none, as the flush would count with it."""
    measured = [case for _, case in kernels("timed") + kernels("ceilings") if case.shape.get("energy")]
    assert {case.subjects[0].removeprefix("kernels.") for case in measured} == {
        "ceiling", "quantize_tiles", "fp8_gemm", "paged_mla", "paged_gqa",
    }  # fmt: skip
    assert sum(len(case.series) for case in measured) * 1.1 * LEAST_ENERGY <= 30
    assert not any(case.shape.get("cold") for case in measured)


def test_every_operation_is_checked_on_many_shapes_and_interpreted():
    for bench in ("checked", "interpreted"):
        assert sorted(op for op, _ in kernels(bench)) == sorted(registry.FILES)
    for op, case in kernels("checked"):
        assert len(case.shape["shapes"]) >= 5
        assert all(work.of(op, shape).nbytes > 0 for shape in case.shape["shapes"]), case.name


@pytest.mark.parametrize("op", registry.FILES)
def test_every_implementation_of_a_timed_case_is_in_the_trial(op):
    trial = registry.load(op)
    assert trial.op == op
    assert trial.small, "the interpreter needs small shapes"
    for bench in ("timed", "checked", "interpreted"):
        for _, case in (pair for pair in kernels(bench) if pair[0] == op):
            assert set(case.impls) <= {"triton", *trial.rivals}, case.name
    raced = {impl for other, case in kernels("timed") if other == op for impl in case.impls}
    assert raced == {"triton", *trial.rivals}, "a rival in no timed case is never run"


def test_a_file_that_is_no_toml_is_named(tmp_path):
    (tmp_path / "cases.toml").write_text("[a\n")
    with pytest.raises(BadInput, match=r"cases\.toml: is not TOML"):
        cases.load(tmp_path / "cases.toml")
    (tmp_path / "other.toml").write_text("a = 1\n")
    with pytest.raises(BadInput, match=r"other\.toml: a: is no table"):
        cases.load(tmp_path / "other.toml")
