"""Kernels of one's own: what --impl takes, what it refuses in one line, and the cases it enters."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import cases
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.meter.session import Plan, Session
from v3bench.suite.trials import own, registry

MINE = """
number = 3
class Kernels:
    @staticmethod
    def decode(x):
        return x
def gemm(a):
    return a
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of somebody's in the working directory; its name."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])  # as the console script has it
    yield name
    sys.modules.pop(name, None)


def test_short_names_stand_for_operations():
    assert own.parse("mla_decode=a.b:c") == ("paged_mla", "a.b:c")
    assert own.parse("fp8_gemm=a:b.c") == ("fp8_gemm", "a:b.c")
    assert set(own.ALIASES.values()) <= registry.FILES.keys()
    assert not own.ALIASES.keys() & registry.FILES.keys()


def test_a_function_is_found_in_the_working_directory(mine):
    assert own.function(f"{mine}:gemm")(5) == 5
    assert own.function(f"{mine}:Kernels.decode")(6) == 6


@pytest.mark.parametrize(
    "text, what",
    [
        ("gemm", "'gemm' names no kernel; expected OP=package.module:function"),
        ("gemm=", "names no kernel"),
        ("gemm=a.b", "names no kernel"),
        ("gemm=:f", "names no kernel"),
        ("gem=a:b", "unknown operation 'gem'; expected one of quantize_tiles"),
        ("gemm=no_such_module:f", "no_such_module cannot be imported (ModuleNotFoundError: No module named"),
        ("gemm={mine}:nothing", "{mine}.py has no 'nothing'"),
        ("gemm={mine}:Kernels.nothing", "has no 'nothing'"),
        ("gemm={mine}:number", "is int, not callable; expected a function"),
    ],
)
def test_what_cannot_be_used_is_one_line(mine, text, what):
    with pytest.raises(BadInput) as error:
        own.entered(cases.load(), [text.format(mine=mine)])
    assert str(error.value).startswith("--impl")
    assert what.format(mine=mine) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", ["1 / 0", "def f(:", "import sys; sys.exit(3)", "raise ValueError('two\\nlines')"])
def test_a_module_that_breaks_while_it_is_imported_is_one_line(tmp_path, monkeypatch, line):
    (tmp_path / "breaks_on_import.py").write_text(line + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match="breaks_on_import cannot be imported") as error:
        own.function("breaks_on_import:f")
    assert "\n" not in str(error.value)


def test_it_enters_every_case_of_its_operation_and_no_other(mine):
    table = cases.load()
    made = own.entered(table, [f"gemm={mine}:gemm", f"gemm={mine}:Kernels.decode", f"gemm={mine}:gemm"])
    assert list(made) == list(table)
    for name, case in made.items():
        of_gemm = case.subjects == ("kernels.fp8_gemm",)
        added = (f"{mine}:gemm", f"{mine}:Kernels.decode") if of_gemm else ()
        assert case.impls == (*table[name].impls, *added)
    benches = {case.bench for case in made.values() if f"{mine}:gemm" in case.impls}
    assert benches == {"timed", "checked", "interpreted"}


@pytest.mark.parametrize(
    "profile, device, right",
    [
        ("smoke", "cpu", "quick or standard"),
        ("full", "cpu", "quick or standard"),
        ("smoke", "cuda", "quick or standard or full"),
    ],
)
def test_a_profile_without_a_case_of_the_operation_is_refused(mine, profile, device, right):
    """A run that measures nothing would pass for one in which the kernel is right."""
    texts = [f"gemm={mine}:gemm"]
    table = own.entered(cases.load(), texts)
    with pytest.raises(BadInput) as error:
        own.need_a_case(table, texts, profile, device)
    said = f"--impl {mine}:gemm: the profile {profile} has no case of fp8_gemm on {device}; expected --profile {right}"
    assert str(error.value) == said
    own.need_a_case(table, texts, "quick", "cpu")
    own.need_a_case(table, texts, "full", "cuda")


def test_a_colon_tells_ones_own_from_ours_and_the_rivals():
    assert own.is_own("mine:f")
    assert not any(own.is_own(impl) for case in cases.load().values() for impl in case.impls)


def test_the_listing_names_every_operation_and_short_name():
    text = "\n".join(own.usage())
    assert all(f"  {op}" in text for op in registry.FILES)
    assert "quantize_tiles (short: quantize)" in text
    assert all(" ".join(registry.load(op).calling.split()) in text for op in registry.FILES)


def test_a_resumed_run_measures_ones_own_again() -> None:
    """Its name says nothing of its code, which may have been edited; ours is of the run's commit."""
    case = cases.load()["linear-64-o-proj"]
    subject = case.subjects[0]
    found = [
        Measurement(
            area=case.area, subject=subject, impl=impl, case=case.name, case_version=case.version, metric=case.metric,
            basis="measured", scale="slice", device="cuda", clock="device-hot", samples=(1.0,),
        )
        for impl in ("triton", "mine.kernels:decode")
    ]  # fmt: skip
    folder = SimpleNamespace(found=found, path=Path("nowhere"))
    plan = Plan(profile="full", device="cuda", cases=cases.load(), folder=folder, resume=True)  # type: ignore[arg-type]
    session = Session(plan)
    assert session.stored(case, f"{subject}/triton") == found[:1]
    assert session.stored(case, f"{subject}/mine.kernels:decode") == []
