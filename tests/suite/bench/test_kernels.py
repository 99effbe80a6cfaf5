"""The kernels' benchmarks on fake trials and a fake recorder: who is timed, skipped or failed, and what is recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from v3bench.suite.bench import bench_kernels
from v3bench.suite.ledger import cases
from v3bench.suite.run_folder import load_run
from v3bench.suite.trials import contest, race, registry
from v3bench.suite.trials.check import seeded
from v3bench.suite.trials.contest import Wrong
from v3bench.suite.trials.trial import Missing, Rival, Trial

CASE = cases.read(
    "double-4",
    {
        "area": "kernels", "bench": "timed", "metric": "time", "basis": "measured", "version": 1, "device": "cuda",
        "subjects": ["kernels.quantize_tiles"],
        "impls": ["triton", "good", "bad", "absent", "greedy", "other", "mine:f"],
        "profiles": ["full"], "why": "a test", "M": 4, "K": 128,
    },
    "c",
)  # fmt: skip


def apart(got, want, inputs):
    return float((got.double() - want).abs().max() / 1e-3)


def build(function):
    return lambda inputs: lambda: function(inputs["x"])


def absent(inputs):
    raise Missing("deep_gemm is not installed")


def greedy(inputs):
    raise torch.OutOfMemoryError("CUDA out of memory")


TRIAL = Trial(
    op="quantize_tiles", calling="f(x): doubles", oracle=lambda x: 2 * x.double(), error=apart, precision="fp8",
    inputs=lambda shape, device: {"x": torch.randn(shape["M"], shape["K"], device=device)},
    ours=lambda x, config=None: torch.mul(x, 2, out=torch.empty_like(x)),
    rivals={
        "good": Rival(build(lambda x: x + x), error=apart), "bad": Rival(build(lambda x: 2.01 * x), error=apart),
        "absent": Rival(absent, error=apart), "greedy": Rival(greedy, error=apart),
        "other": Rival(build(lambda x: x.bfloat16()), "computes something else"),
    },
)  # fmt: skip


@pytest.fixture
def trial(monkeypatch):
    """A trial in place of the registry's, three buffer sets, and somebody's own kernel."""
    monkeypatch.setattr(registry, "load", lambda op: TRIAL)
    monkeypatch.setattr(race, "buffer_sets", lambda op, shape, cold: 3)
    monkeypatch.setattr(contest.own, "function", lambda name: lambda x: 2 * x)
    return TRIAL


class Fake:
    """Stands for the recorder: runs the gate, keeps what it is given, times nothing."""

    def __init__(self):
        self.errors, self.contenders, self.kept = {}, {}, []

    def gate(self, check):
        assert check() is None

    def beside(self, samples, *, series, metric, precision):
        assert metric == "error_of_bar"
        self.errors[series.partition("/")[2]] = samples

    def timed_kernels(self, build, *, precision):
        self.contenders = {series.partition("/")[2]: one for series, one in build().items()}

    def __call__(self, samples, **fields):
        self.kept.append((samples, fields))


@pytest.fixture
def fake():
    return Fake()


def test_the_right_ones_are_timed_over_every_buffer_set_and_the_others_say_why(trial, fake):
    bench_kernels.test_timed(fake, CASE, CASE.series[0], "cpu")
    fates = {impl: (len(one.calls), one.missing, one.failed) for impl, one in fake.contenders.items()}
    assert fates == {
        "triton": (3, "", ""), "good": (3, "", ""), "other": (3, "", ""), "mine:f": (3, "", ""),
        "bad": (0, "", fates["bad"][2]), "absent": (0, "deep_gemm is not installed", ""),
        "greedy": (0, "does not fit the GPU's memory", ""),
    }  # fmt: skip
    assert fates["bad"][2].startswith("its error is")
    assert list(fake.contenders) == list(CASE.impls)
    assert set(fake.errors) == {"triton", "good", "mine:f"}  # of "other" nothing is asked


def test_every_buffer_set_is_other_memory_with_other_data(trial, fake):
    bench_kernels.test_timed(fake, CASE, CASE.series[0], "cpu")
    outputs = [call() for call in fake.contenders["triton"].calls]
    assert len({one.data_ptr() for one in outputs}) == 3
    assert not torch.equal(outputs[0], outputs[1])


def test_a_wrong_kernel_of_ones_own_fails_alone(trial, fake, monkeypatch):
    monkeypatch.setattr(contest.own, "function", lambda name: lambda x: (2 * x).double())
    bench_kernels.test_timed(fake, CASE, CASE.series[0], "cpu")
    assert fake.contenders["mine:f"].failed.startswith("returned float64 (4, 128) on cpu, expected float32")
    assert fake.contenders["triton"].calls


def test_who_writes_into_its_inputs_does_not_spoil_those_of_the_others(trial, fake, monkeypatch):
    functions = {"mine:f": lambda x: x.mul_(2), "mine:g": lambda x: 2 * x}
    monkeypatch.setattr(contest.own, "function", functions.get)
    bench_kernels.test_timed(fake, replace(CASE, impls=("triton", "mine:f", "mine:g")), CASE.series[0], "cpu")
    assert fake.contenders["mine:f"].failed == "changes its input x"
    assert fake.contenders["mine:g"].calls
    got = fake.contenders["triton"].calls[0]()
    assert torch.equal(got, 2 * seeded(TRIAL, CASE.dimensions, "cpu")["x"])


def test_a_case_that_does_not_fit_is_skipped_with_what_it_needs(trial, fake, monkeypatch):
    monkeypatch.setattr(race, "free_memory", lambda device: 1000)
    with pytest.raises(pytest.skip.Exception, match=r"needs 0\.0 GB of cpu memory and 1\.1 GB spare"):
        bench_kernels.test_timed(fake, CASE, CASE.series[0], "cpu")


def test_a_cold_time_needs_one_set_and_a_hot_one_as_many_as_the_l2_asks_for(monkeypatch):
    monkeypatch.setattr(race.graph, "l2_bytes", lambda: 60_000_000)
    shape = {"M": 4096, "K": 7168}
    assert race.buffer_sets("quantize_tiles", shape, cold=True) == 1
    assert race.buffer_sets("quantize_tiles", shape, cold=False) == 3  # of 89 MB, above 180 MB


class Session:
    def __init__(self):
        self.kept, self.cut_short = [], ""

    def keep(self, record):
        self.kept.append(record)


def test_a_kernel_that_breaks_the_gpu_ends_the_run_and_is_named(trial, fake, monkeypatch):
    def breaks(x):
        monkeypatch.setattr(contest, "lost", lambda: True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(contest.own, "function", lambda name: breaks)
    fake.session, fake.series = Session(), CASE.series[0]
    fake.blank = lambda series, **fields: (series, fields["status"], fields["why"])
    with pytest.raises(pytest.exit.Exception):
        bench_kernels.test_timed(fake, CASE, CASE.series[0], "cpu")
    ((series, status, why),) = fake.session.kept
    assert (series, status) == ("kernels.quantize_tiles/mine:f", "failed")
    assert why.startswith("raised RuntimeError: CUDA error: an illegal memory access was encountered")
    assert fake.session.cut_short.startswith("mine:f broke the GPU's context")


def test_a_gpu_that_is_too_old_is_a_reason(trial, fake, monkeypatch):
    monkeypatch.setattr(race.checks, "missing", lambda needs, device: "needs compute capability 9.0")
    with pytest.raises(pytest.skip.Exception, match="needs compute capability 9"):
        bench_kernels.test_timed(fake, CASE, CASE.series[0], "cpu")


def checked(shapes, impl="triton"):
    return race.checked("quantize_tiles", impl, shapes, "cpu")


def test_the_worst_of_all_shapes_is_recorded(trial, fake):
    case = replace(CASE, bench="checked", impls=("triton",), shape={"shapes": [{"M": 1, "K": 5}, {"M": 3, "K": 128}]})
    bench_kernels.test_checked(fake, case, case.series[0], "cpu")
    ((samples, fields),) = fake.kept
    assert samples == [0.0]
    assert fields == {"convention": "worst of 2 of 2 shapes", "precision": "fp8"}


def test_a_shape_without_room_is_left_out_and_a_wrong_one_is_named(trial, monkeypatch):
    small, large = {"M": 1, "K": 5}, {"M": 10**6, "K": 10**4}
    assert checked([small, large]) == (0.0, 1)
    with pytest.raises(Missing, match=r"needs .* GB of cpu memory"):
        checked([large])
    monkeypatch.setattr(contest.own, "function", lambda name: lambda x: 2 * x if len(x) < 3 else 3 * x)
    with pytest.raises(Wrong, match="at M=3, K=5: its error is"):
        checked([small, {"M": 3, "K": 5}], "mine:f")


MINE = """
from v3bench.kernels.quantize import reference_tiles

def right(x):
    return reference_tiles(x)

def wrong(x):
    codes, scales = reference_tiles(x)
    return codes, 2 * scales
"""


def test_a_kernel_of_ones_own_goes_through_a_whole_run_on_a_cpu(tmp_path):
    """Ours, a right one and a wrong one, of an operation by its short name; the other operations are left out."""
    (tmp_path / "mine_of_a_run.py").write_text(MINE)
    table = "".join(
        f'[{name}]\narea = "kernels"\nbench = "{bench}"\nmetric = "{metric}"\nbasis = "measured"\nversion = 1\n'
        f'subjects = ["kernels.quantize_tiles"]\nimpls = ["triton"]\nprofiles = ["quick"]\nwhy = "{name}"\n{rest}\n'
        for name, bench, metric, rest in (
            ("small", "interpreted", "error_of_bar", 'device = "cpu"'),
            ("gpu", "timed", "time", 'device = "cuda"\nM = 64\nK = 7168'),
            ("all", "checked", "error_of_bar", 'device = "cuda"\nshapes = []'),
            ("ceiling", "ceilings", "time", 'device = "cuda"\nkind = "copy"\nn = 5'),
        )
    )
    (tmp_path / "cases.toml").write_text(table)
    code = (
        "import sys\nfrom pathlib import Path\nfrom v3bench.suite import runner\n"
        "impls = ['quantize=mine_of_a_run:right', 'quantize=mine_of_a_run:wrong']\n"
        "sys.exit(runner.run(profile='quick', only=('kernels',), device='cpu', out='run', impls=impls, say=print,"
        " cases=Path('cases.toml'))[1])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "    failed: mine_of_a_run:wrong: at M=5, K=300: its error is" in done.stdout
    run = load_run(tmp_path / "run")
    found = {(m.case, m.impl): (m.status, m.why or m.samples[0]) for m in run.measurements}
    needs = ("skipped", "needs a CUDA device")
    assert found == {
        ("small", "triton"): ("ok", 0.0),
        ("small", "mine_of_a_run:right"): ("ok", 0.0),
        ("small", "mine_of_a_run:wrong"): ("failed", "at M=5, K=300: its error is beyond any bound"),
        ("gpu", "triton"): needs, ("all", "triton"): needs, ("ceiling", "triton"): needs,
    }  # fmt: skip
    assert all(m.scale == "proxy" for m in run.measurements if m.case == "small")
    command = json.loads((tmp_path / "run" / "run.json").read_text())["segments"][0]["command"]
    assert command.endswith("--impl quantize=mine_of_a_run:right --impl quantize=mine_of_a_run:wrong")
