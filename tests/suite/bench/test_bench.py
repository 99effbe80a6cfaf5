"""The benchmarks as they are run: plainly by pytest, and by the runner into a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from v3bench.suite import models, runner
from v3bench.suite.laws import flops, kv, params
from v3bench.suite.ledger import cases
from v3bench.suite.run_folder import load_run

ROOT = Path(__file__).parents[3]


def in_child(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def run(out, *areas, profile="smoke"):
    """The runner in a child; its folder read back."""
    code = (
        "import sys\nfrom v3bench.suite import runner\n"
        f"sys.exit(runner.run(profile={profile!r}, only={areas!r}, device='cpu', out={str(out)!r}, say=print)[1])"
    )
    done = in_child("-c", code, cwd=out.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return load_run(out)


def test_measured_and_counted_cache_bytes_equal_the_formula(tmp_path):
    found = run(tmp_path / "run", "kv_cache")
    assert {m.status for m in found.measurements} == {"ok"}
    for m in found.measurements:
        assert m.samples == (kv.bytes_per_token(models.load(m.subject)[1], "bf16"),)
        assert (m.scale, m.convention) == ("full", "bf16")
    measured = {(m.subject, m.impl) for m in found.measurements if m.basis == "measured"}
    assert measured == {(name, "allocator") for name in ("deepseek-v3", "llama-3.1-405b", "qwen2.5-72b")}


def test_counted_parameters_equal_the_formula(tmp_path):
    found = run(tmp_path / "run", "model", profile="quick").measurements
    counted = [m for m in found if m.status == "ok"]
    for m in counted:
        assert m.samples == (getattr(params.count(models.load(m.subject)[1]), m.convention),), m
    assert {m.why for m in found if m.status != "ok"} == {"no checkpoint given: --checkpoint DIR"}
    assert {m.subject for m in counted if m.convention == "mtp"} >= {"deepseek-v3"}
    assert {(m.subject, m.scale) for m in counted} >= {("deepseek-v3", "full"), ("deepseek-v3-small", "proxy")}


@pytest.mark.slow
def test_counted_flops_equal_the_formula(tmp_path):
    found = run(tmp_path / "run", "flops").measurements
    S = cases.load()["training-4k"].shape["seq_len"]
    for m in found:
        config = models.load(m.subject)[1]
        forward = flops.forward(config, S, causal="full" not in m.convention)
        want = {"train_causal": 3 * forward / S, "train_full": 3 * forward / S, "prefill_causal": forward / S}
        assert m.samples == (want.get(m.convention, flops.decode(config, S)),), m
    conventions = ("train_causal", "train_full", "prefill_causal", "decode")
    assert {(m.subject, m.convention) for m in found} == {
        (name, convention) for name in cases.load()["training-4k"].subjects for convention in conventions
    }


@pytest.mark.slow
def test_plain_pytest_gives_pytest_benchmarks_own_json(tmp_path):
    """From the checkout, with every plug-in that is installed and the project's own strict settings."""
    out = tmp_path / "out.json"
    arguments = [
        "-m",
        "pytest",
        "-q",
        "suite/bench",
        "--v3-profile=smoke",
        "--v3-device=cpu",
        f"--benchmark-json={out}",
    ]
    done = in_child(*arguments, f"--benchmark-json={out}", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = json.loads(out.read_text())["benchmarks"]
    areas = {m["area"] for entry in entries for m in entry["extra_info"]["measurements"]}
    assert areas == {case.area for case in cases.load().values() if "smoke" in case.profiles}
    timed = [entry for entry in entries if entry["group"] == "tpot: decode-tiny"]
    assert {entry["params"]["series"] for entry in timed} == {"deepseek-v3-tiny/torch", "llama-tiny/torch"}
    assert all(entry["stats"]["rounds"] >= 2 for entry in timed)


@pytest.mark.slow
def test_the_benchmarks_run_without_measuring(tmp_path):
    arguments = ["-m", "pytest", "-q", "suite/bench", "--v3-profile=smoke", "--v3-device=cpu", "--benchmark-disable"]
    done = in_child(*arguments, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_checkpoint_that_is_given_is_counted_as_loaded(tmp_path, folder):
    code = (
        "import sys\nfrom v3bench.suite import runner\n"
        f"sys.exit(runner.run(only=('model',), device='cpu', out='run', checkpoint={str(folder)!r})[1])"
    )
    done = in_child("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = load_run(tmp_path / "run")
    given = [m for m in found.measurements if m.case == "checkpoint-given"]
    total = params.count(models.load("llama-tiny")[1]).total
    assert [(m.convention, m.samples, m.scale) for m in given] == [("total, as loaded", (total,), "proxy")]
    assert str(tmp_path) not in found.info["segments"][0]["command"]


def test_the_runner_runs_these_benchmarks():
    assert runner.BENCH == ROOT / "suite" / "bench"
