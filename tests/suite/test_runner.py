"""v3bench run: its arguments, its words, its independence of the user's own settings."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite import runner
from v3bench.suite.run_folder import load_run


def test_a_benchmark_that_cannot_be_imported_is_a_failure_in_words(child, quick):
    child.write(child.table("a") + child.table("b", area="kv_cache"), tpot="import no_such_module\n", kv_cache=quick)
    done = child.start()
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr
    found = [(m.case, m.subject, m.status) for m in load_run(child.out).measurements if m.convention != "two"]
    assert sorted(found) == [("a", "s", "failed"), ("a", "t", "failed"), ("b", "s", "ok"), ("b", "t", "ok")]


def test_areas_without_benchmarks_and_progress_are_said(child, quick):
    child.write(child.table("a") + child.table("b", area="kv_cache"), tpot=quick, kv_cache=quick)
    done = child.start()
    assert "no benchmark yet: model, flops, fp8" in done.stderr
    assert re.search(r"\[1/2\] kv_cache b \(0:0\d so far\)", done.stderr)
    assert re.search(r"\[2/2\] tpot a \(0:0\d so far\)", done.stderr)


def test_a_reader_that_goes_away_does_not_end_the_run(child, quick):
    child.write(child.table("a", "b"), tpot=quick)
    process = subprocess.Popen(child.command(), stderr=subprocess.PIPE, text=True)
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert len(load_run(child.out).measurements) == 8


def test_an_internal_error_of_pytest_is_said(child, quick):
    child.write(child.table("a"), tpot=quick)
    (child.bench / "conftest.py").write_text("def pytest_runtest_logfinish():\n    raise OSError('odd')\n")
    done = child.start()
    assert done.returncode == 1
    assert "pytest broke internally: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "odd" in (child.out / "pytest.log").read_text()


def test_a_profile_runs_its_own_cases_only(child, quick):
    child.write(child.table("a"), tpot=quick)
    done = child.start(profile="full")
    assert done.returncode == 0
    assert load_run(child.out).measurements == ()


def test_the_users_pytest_settings_change_nothing(child, quick):
    child.write(child.table("a"), tpot=quick)
    (child.path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (child.path / "conftest.py").write_text("raise RuntimeError('not mine')\n")
    environment = {**os.environ, "PYTEST_ADDOPTS": "--benchmark-disable", "PYTEST_PLUGINS": "no_such_plugin"}
    done = child.start(env=environment)
    assert done.returncode == 0, done.stderr
    assert len(load_run(child.out).measurements) == 4


@pytest.mark.parametrize(
    "arguments, what",
    [
        ({"profile": "fast"}, "--profile: unknown profile 'fast'; expected one of smoke, quick, standard, full"),
        ({"only": ("tpot", "kv")}, "--only: unknown area 'kv'; expected one of model, kv_cache"),
        ({"device": "tpu"}, "--device: unknown device 'tpu'; expected cpu or cuda"),
        ({"checkpoint": "nowhere"}, "nowhere: holds no config.json"),
        ({"out": "nowhere", "resume": True}, "nowhere: holds no run to go on with"),
        ({"resume": True}, "--resume: runs/ holds no quick run on cpu"),
        ({"out": "/proc/run"}, "/proc/run: cannot be written"),
    ],
)
def test_wrong_usage_is_one_line_before_anything_is_written(tmp_path, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=re.escape(what)) as error:
        runner.run(**{"device": "cpu", **arguments})
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_default_folders_do_not_run_into_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = runner.chosen_folder(None, "cpu", "smoke", resume=False)
    assert re.fullmatch(r"runs/\d{4}-\d\d-\d\d-cpu-smoke", str(first))
    first.mkdir(parents=True)
    second = runner.chosen_folder(None, "cpu", "smoke", resume=False)
    assert second == Path(f"{first}-2")
    (first / "run.json").write_text("{}")
    assert runner.chosen_folder(None, "cpu", "smoke", resume=True) == first


def test_the_command_names_no_path_of_the_machine():
    words = runner.command_line("quick", ("tpot", "mtp"), "cpu", True, "/home/me/checkpoint")
    assert words == "v3bench run --profile quick --device cpu --only tpot,mtp --resume --checkpoint checkpoint"
