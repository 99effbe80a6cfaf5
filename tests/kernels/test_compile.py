"""Every shipped launch configuration, compiled for sm_90: by the locked Triton and by the oldest one allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from v3bench.kernels import catalog, forms, tables
from v3bench.model_ref.config import Config
from v3bench.suite.meter.compile_check import form_jobs, instructions, jobs, matrix, misfits, wrong, wrong_form
from v3bench.suite.meter.compiled import Built, Job, Outcome, compile_all
from v3bench.suite.models import load, presets

ROOT = Path(__file__).resolve().parents[2]
OLDEST = "3.6.0"
FOLDER = ROOT / "build" / f"triton-{OLDEST}"  # made by `make test-slow`


@pytest.mark.slow
@pytest.mark.parametrize("op", catalog.MODULES)
def test_shipped_configurations_under_the_locked_triton(op: str) -> None:
    rows, todo = zip(*jobs(op), strict=True)
    outcomes = compile_all(todo)
    found = {str(row.shape): said for row, o in zip(rows, outcomes, strict=True) if (said := wrong(op, row, o))}
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("op", catalog.MODULES)
def test_shipped_configurations_under_the_oldest_triton(op: str) -> None:
    if not (FOLDER / "triton").is_dir():
        pytest.skip(f"needs Triton {OLDEST} in {FOLDER.relative_to(ROOT)}: make test-slow")
    rows, todo = zip(*jobs(op), strict=True)
    outcomes = list(compile_all(todo, triton=FOLDER))
    assert {launch.triton for o in outcomes if not isinstance(o, str) for launch in o} == {OLDEST}
    found = {str(row.shape): said for row, o in zip(rows, outcomes, strict=True) if (said := wrong(op, row, o))}
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("launcher", forms.FORMS)
def test_forms_that_no_table_has_under_the_locked_triton(launcher: str) -> None:
    todo = form_jobs(launcher)
    assert not spoiled(launcher, todo, compile_all(todo))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", forms.FORMS)
def test_forms_that_no_table_has_under_the_oldest_triton(launcher: str) -> None:
    """Every fifth of them, as all would take too long: 5 divides the length of no axis, so that all axes mix."""
    if not (FOLDER / "triton").is_dir():
        pytest.skip(f"needs Triton {OLDEST} in {FOLDER.relative_to(ROOT)}: make test-slow")
    todo = form_jobs(launcher)[::5]
    outcomes = list(compile_all(todo, triton=FOLDER))
    assert {launch.triton for o in outcomes if not isinstance(o, str) for launch in o} == {OLDEST}
    assert not spoiled(launcher, todo, outcomes)


def spoiled(launcher: str, todo: Sequence[Job], outcomes: Iterable[Outcome]) -> dict[str, list[str]]:
    """What is wrong with each form that something is wrong with."""
    judged = ((job.shape, wrong_form(launcher, job.shape, o)) for job, o in zip(todo, outcomes, strict=True))
    return {str(form): said for form, said in judged if said}


@pytest.mark.parametrize("preset", presets())
def test_the_heads_of_every_preset_have_their_forms(preset: str) -> None:
    _, config = load(preset)
    heads = {(form["d"], form["v"]) for form in forms.FORMS["attention"]}
    if isinstance(config, Config):
        assert (config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim) in heads
        latents = {(form["C"], form["R"]) for form in forms.FORMS["mla_decode"]}
        assert (config.kv_lora_rank, config.qk_rope_head_dim) in latents
    else:
        assert (config.head_dim, config.head_dim) in heads


def test_a_form_is_held_to_its_own_instructions() -> None:
    form = {"dtype": "float32", "S": 8}
    assert instructions("attention", form) == set()
    assert instructions("fp8_gemm", form) == {"QGMMA"}
    assert instructions("attention", {**form, "dtype": "bfloat16", "v": 128}) == {"HMMA"}
    assert instructions("attention", {"dtype": "bfloat16", "S": 1, "v": 32}) == {"HGMMA", "HMMA"}
    assert instructions("mla_decode", {"dtype": "bfloat16", "S": 1, "C": 512}) == {"HGMMA"}
    assert instructions("mla_decode", {"dtype": "bfloat16", "S": 1, "C": 32}) == {"HGMMA", "HMMA"}
    assert wrong_form("attention", form, ()) == ["launches nothing"]
    assert wrong_form("attention", form, (replace(GEMM, instructions={}, loop={}, spills=True, stack_bytes=8),)) == [
        "kernel spills 8 bytes of registers"
    ]


@pytest.mark.parametrize("op", catalog.MODULES)
def test_shipped_rows_are_the_locked_tritons(op: str) -> None:
    """Else their figures would be held against nothing."""
    (locked,) = re.findall(r"^triton==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert {row.triton for row in tables.rows(op)} == {locked}


def test_the_oldest_triton_is_the_one_that_pyproject_admits() -> None:
    (least,) = re.findall(r'"triton>=([\d.]+);', (ROOT / "pyproject.toml").read_text())
    assert f"{least}.0" == OLDEST


GEMM = Built(
    triton="3.7.1", name="kernel", programs=1, l2_bytes=0, passes=0, warps=8, registers=154, stack_bytes=0,
    shared_bytes=98328, instructions={"QGMMA": 8, "FFMA": 64}, loop={"QGMMA": 4, "FFMA": 64}, loop_flops=2 * 128**3,
    loop_bytes=0, spills=False, ctas_per_sm=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (GEMM, []),
        (
            replace(GEMM, loop={"QGMMA": 4, "FFMA": 63}),
            ["kernel adds 16128 times in float32 for 16384 sums of 128 products"],
        ),
        (replace(GEMM, loop={"QGMMA": 4, "FADD": 64}), []),
        (replace(GEMM, loop={"HMMA": 8, "FFMA": 64}), ["uses ['HMMA'], meant are ['QGMMA']"]),
        (replace(GEMM, loop={"FFMA": 64}), ["uses no matrix instructions, meant are ['QGMMA']"]),
        (replace(GEMM, loop={}, instructions={"HMMA": 8}), ["uses ['HMMA'], meant are ['QGMMA']"]),
    ],
)
def test_the_check_sees_a_wrong_instruction_and_a_lost_promotion(launch: Built, said: list[str]) -> None:
    assert matrix({"QGMMA"}, [launch]) == said


def test_the_check_sees_spills_and_too_much_shared_memory() -> None:
    assert misfits(GEMM) == []
    assert misfits(replace(GEMM, spills=True, stack_bytes=16)) == ["spills 16 bytes of registers"]
    assert "does not fit an SM" in misfits(replace(GEMM, ctas_per_sm=0, shared_bytes=300_000))[0]


def test_the_check_sees_a_table_that_is_out_of_date() -> None:
    (row, job), *_ = jobs("quantize_blocks")
    (outcome,) = compile_all([job])
    assert wrong("quantize_blocks", row, outcome) == []
    stale = replace(row, predicted={**row.predicted, "ctas_per_sm": 77})
    assert "the table says 77: run v3bench tune quantize_blocks" in wrong("quantize_blocks", stale, outcome)[0]
    other = replace(stale, triton="3.6.0")  # another compiler's figures are its own
    assert wrong("quantize_blocks", other, outcome) == []
    assert wrong("quantize_blocks", row, "KeyError: 'x'") == ["does not compile: KeyError: 'x'"]
