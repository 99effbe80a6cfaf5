"""The compiler in a child process: what it reports, and that it outlives what breaks it."""

from pathlib import Path

import pytest
import torch
from v3bench.kernels.catalog import module
from v3bench.suite.meter import compiled
from v3bench.suite.meter.compiled import Compiler, Job, compile_all

SHAPE = {"M": 4096, "K": 7168}


def test_a_kernel_is_compiled_for_a_gpu_that_is_not_there():
    (outcome,) = compile_all([Job("quantize_tiles", SHAPE, {"ROWS": 16, "num_warps": 4})])
    (built,) = outcome
    assert built.name == "kernel_tiles"
    assert built.programs == 256 * 56
    assert built.warps == 4
    assert not built.spills
    assert 0 < built.registers <= 255
    assert built.ctas_per_sm >= 4
    assert built.instructions["F2FP"] > 0  # the hardware's own conversion to e4m3
    assert built.loop == {}
    assert built.loop_bytes >= 16 * 128 * 3  # two bytes in, one out


def test_what_cannot_be_compiled_is_said_and_the_rest_goes_on():
    jobs = [
        Job("nonsense", {}, {}),
        Job("quantize_tiles", SHAPE, {"ROWS": 3, "num_warps": 4}),
        Job("quantize_tiles", SHAPE, {"ROWS": 16, "num_warps": 4}),
    ]
    heard = []
    first, second, third = compile_all(jobs, processes=1, done=lambda job, outcome: heard.append(job))
    assert first == "KeyError: 'nonsense'"
    assert isinstance(second, str)
    assert third[0].name == "kernel_tiles"
    assert heard == jobs


def test_a_child_that_dies_is_replaced(monkeypatch, tmp_path):
    (tmp_path / "dying.py").write_text("import sys\nsys.stdin.readline()\nsys.exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(compiled, "WORKER", "dying")
    compiler = Compiler()
    job = Job("quantize_tiles", SHAPE, {})
    assert compiler(job) == compiler(job) == "the compiler ended its process with status 7"
    compiler.close()


def test_the_child_is_not_interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET" not in Compiler().environment
    assert Compiler(Path("/there")).environment["PYTHONPATH"].startswith("/there")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_the_tests_own_process_is_interpreted():
    """So that a child which compiles although its parent interprets is what the tests above have seen."""
    assert module("quantize_tiles").checks.interpreted()
