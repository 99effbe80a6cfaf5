"""v3bench run: what is measured stays, once, whatever ends the run; what cannot be run says so in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite import runner
from v3bench.suite.run_folder import load_run

# A child process: pytest within pytest would share its state.
CHILD = """
import resource, signal, sys
from pathlib import Path
from v3bench.model_ref.errors import BadInput
from v3bench.suite import runner

bench, out, profile, resume, limit = sys.argv[1:6]
facts = {
    "commit": "a", "dirty": False, "lock_sha256": None, "packages": {}, "python": "3", "platform": "Linux",
    "device": "cpu", "cpu": {"model": "A", "cores": 2, "memory_bytes": 1}, "gpus": [], "driver": None,
}
if limit != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
say = lambda line: print(line, file=sys.stderr, flush=True)
try:
    folder, status = runner.run(
        profile=profile, device="cpu", out=out, resume=resume == "resume", say=say,
        bench=Path(bench) / "suite" / "bench", cases=Path(bench) / "cases.toml", facts=lambda device: facts,
    )
except BadInput as error:
    say(str(error))
    sys.exit(2)
sys.exit(status)
"""

CASE = """
[{name}]
area = "{area}"
bench = "{bench}"
metric = "m"
basis = "{basis}"
version = 1
subjects = ["s", "t"]
profiles = ["smoke"]
why = "a test"
"""

QUICK = """
def test_value(record, case, series):
    record([len(case.name)], convention="one")
    record([2 * len(case.name)], convention="two")
"""

# A benchmark that waits, at the case named in the file "stop", for the signal that is on its way.
SLOW = """
import pathlib, time

def test_value(record, case, series):
    stop = pathlib.Path(__file__).with_name("stop")
    if stop.exists() and series == "t/torch" and stop.read_text() == case.name:
        pathlib.Path(__file__).with_name("reached").write_text("")
        time.sleep(60)
    record([1.0], convention="one")
    record([2.0], convention="two")
"""


def write(path, cases, **files):
    """Benchmarks and their table under ``path``: area -> source."""
    bench = path / "suite" / "bench"
    bench.mkdir(parents=True, exist_ok=True)
    (path / "cases.toml").write_text("".join(CASE.format(**case) for case in cases))
    for area, source in files.items():
        (bench / f"bench_{area}.py").write_text(source)
    return path


def table(*names, area="tpot", bench="value", basis="counted"):
    return [{"name": name, "area": area, "bench": bench, "basis": basis} for name in names]


def command(path, out, resume=False, limit=0, profile="smoke"):
    arguments = [str(path), str(out), profile, "resume" if resume else "new", str(limit)]
    return [sys.executable, "-c", CHILD, *arguments]


def start(*args, **kwargs):
    return subprocess.run(command(*args, **kwargs), capture_output=True, text=True, timeout=120, cwd=args[0])


def taken(out):
    """How often each series has each convention."""
    return Counter((m.case, m.subject, m.convention) for m in load_run(out).measurements)


@pytest.mark.parametrize(
    "number, status", [(signal.SIGKILL, -9), (signal.SIGTERM, 3), (signal.SIGINT, 3), (signal.SIGHUP, 3)]
)
def test_a_killed_run_keeps_all_and_resumes_without_doubling(tmp_path, number, status):
    path, out = write(tmp_path, table("a", "b", "c"), tpot=SLOW), tmp_path / "out"
    bench = path / "suite" / "bench"
    (bench / "stop").write_text("b")
    child = subprocess.Popen(command(path, out), stderr=subprocess.PIPE, text=True)
    while not (bench / "reached").exists():
        assert child.poll() is None, child.stderr.read()
    child.send_signal(number)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == status
    # "a" whole, of "b" the series before the one that was running
    whole = {("a", subject, convention) for subject in "st" for convention in ("one", "two")}
    assert taken(out) == Counter(whole | {("b", "s", "one"), ("b", "s", "two")})
    segment = load_run(out).info["segments"][0]
    assert segment["exit"] == (None if number == signal.SIGKILL else 3)
    if number != signal.SIGKILL:
        assert "Traceback" not in said
        assert "what was measured is kept" in said

    (bench / "stop").unlink()
    done = start(path, out, resume=True)
    assert done.returncode == 0, done.stderr
    assert taken(out) == Counter(
        (case, subject, convention) for case in "abc" for subject in "st" for convention in ("one", "two")
    )
    assert len(load_run(out).info["segments"]) == 2
    names = [entry["name"] for entry in json.loads((out / "benchmark.json").read_text())["benchmarks"]]
    assert sorted(names) == sorted(f"test_value[{case}-{subject}/torch]" for case in "abc" for subject in "st")


def test_resume_of_a_whole_run_measures_nothing(tmp_path):
    path, out = write(tmp_path, table("a"), tpot=QUICK), tmp_path / "out"
    assert start(path, out).returncode == 0
    before = (out / "measurements.jsonl").read_bytes()
    done = start(path, out, resume=True)
    assert done.returncode == 0
    assert (out / "measurements.jsonl").read_bytes() == before
    assert "0 measured, 0 skipped, 0 failed" in done.stderr


def test_a_second_run_without_resume_is_another_launch(tmp_path):
    path, out = write(tmp_path, table("a"), tpot=QUICK), tmp_path / "out"
    for _ in range(2):
        assert start(path, out).returncode == 0
    run = load_run(out)
    assert set(taken(out).values()) == {2}
    assert {m.launch for m in run.measurements} == {segment["launch"] for segment in run.info["segments"]}


def test_resume_puts_back_the_entries_of_benchmark_json(tmp_path):
    """A kill between a record and its entry: the entry comes from the record, which is not measured again."""
    path, out = write(tmp_path, table("a", basis="measured"), tpot=TIMED), tmp_path / "out"
    assert start(path, out).returncode == 0
    before = (out / "measurements.jsonl").read_bytes()
    medians = {b["name"]: b["stats"]["median"] for b in json.loads((out / "benchmark.json").read_text())["benchmarks"]}
    (out / "benchmark.json").unlink()
    assert start(path, out, resume=True).returncode == 0
    assert (out / "measurements.jsonl").read_bytes() == before
    again = {b["name"]: b["stats"]["median"] for b in json.loads((out / "benchmark.json").read_text())["benchmarks"]}
    assert again == pytest.approx(medians)
    assert len(again) == 2


TIMED = """
def test_value(timed, gate, record, case, series):
    def build():
        gate(lambda: True)
        return {name: (lambda: sum(range(1000))) for name in case.series}
    timed(build)
"""


def test_failures_and_skips_are_records_and_the_rest_goes_on(tmp_path):
    mixed = """
import pytest

def test_value(record, case, series):
    if case.name == "skips":
        pytest.skip("no such GPU")
    if case.name == "fails":
        record([1.0])
        raise RuntimeError("two\\nlines")
    record([1.0])
"""
    path, out = write(tmp_path, table("skips", "fails", "works"), tpot=mixed), tmp_path / "out"
    done = start(path, out)
    assert done.returncode == 1
    found = {(m.case, m.subject): (m.status, m.why) for m in load_run(out).measurements}
    for subject in "st":
        assert found["skips", subject] == ("skipped", "no such GPU")
        assert found["fails", subject] == ("failed", "RuntimeError: two lines")
        assert found["works", subject] == ("ok", "")
    assert len(load_run(out).measurements) == 6
    assert "2 measured, 2 skipped, 2 failed" in done.stderr
    assert "RuntimeError" in (out / "pytest.log").read_text()

    write(tmp_path, table("skips", "fails", "works"), tpot=QUICK)
    assert start(path, out, resume=True).returncode == 0
    run = load_run(out)
    assert {m.status for m in run.measurements} == {"ok"}
    assert sum(m.case == "works" for m in run.measurements) == 2  # not measured again


def test_a_disk_that_fills_up_keeps_what_was_measured(tmp_path):
    path, out = write(tmp_path, table(*"abcdefghij"), tpot=QUICK), tmp_path / "out"
    done = start(path, out, limit=6000)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"cannot be written \(File too large\)", done.stderr), last
    found = load_run(out)
    assert found.messages == ()
    assert 0 < len(found.measurements) < 40
    assert start(path, out, resume=True).returncode == 0
    assert set(taken(out).values()) == {1}
    assert len(taken(out)) == 40


def test_a_disk_full_from_the_start_is_one_line_and_status_2(tmp_path):
    path = write(tmp_path, table("a"), tpot=QUICK)
    done = start(path, tmp_path / "out", limit=10)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be written" in done.stderr


def test_a_benchmark_that_cannot_be_imported_is_a_failure_in_words(tmp_path):
    path = write(tmp_path, table("a") + table("b", area="kv_cache"), tpot="import no_such_module\n", kv_cache=QUICK)
    done = start(path, tmp_path / "out")
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr
    found = [(m.case, m.subject, m.status) for m in load_run(tmp_path / "out").measurements if m.convention != "two"]
    assert sorted(found) == [("a", "s", "failed"), ("a", "t", "failed"), ("b", "s", "ok"), ("b", "t", "ok")]


def test_areas_without_benchmarks_and_progress_are_said(tmp_path):
    path = write(tmp_path, table("a") + table("b", area="kv_cache"), tpot=QUICK, kv_cache=QUICK)
    done = start(path, tmp_path / "out")
    assert "no benchmark yet: model, flops, fp8" in done.stderr
    assert re.search(r"\[1/2\] kv_cache b \(0:0\d so far\)", done.stderr)
    assert re.search(r"\[2/2\] tpot a \(0:0\d so far\)", done.stderr)


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    path, out = write(tmp_path, table("a", "b"), tpot=QUICK), tmp_path / "out"
    child = subprocess.Popen(command(path, out), stderr=subprocess.PIPE, text=True)
    child.stderr.close()
    assert child.wait(timeout=60) == 0
    assert len(load_run(out).measurements) == 8


def test_an_internal_error_of_pytest_is_said(tmp_path):
    path, out = write(tmp_path, table("a"), tpot=QUICK), tmp_path / "out"
    (path / "suite" / "bench" / "conftest.py").write_text("def pytest_runtest_logfinish():\n    raise OSError('odd')\n")
    done = start(path, out)
    assert done.returncode == 1
    assert "pytest broke internally: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "odd" in (out / "pytest.log").read_text()


def test_a_profile_runs_its_own_cases_only(tmp_path):
    path = write(tmp_path, table("a"), tpot=QUICK)
    done = start(path, tmp_path / "out", profile="full")
    assert done.returncode == 0
    assert load_run(tmp_path / "out").measurements == ()


def test_the_users_pytest_settings_change_nothing(tmp_path):
    path, out = write(tmp_path, table("a"), tpot=QUICK), tmp_path / "out"
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError('not mine')\n")
    environment = {**os.environ, "PYTEST_ADDOPTS": "--benchmark-disable", "PYTEST_PLUGINS": "no_such_plugin"}
    done = subprocess.run(
        command(path, out), capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert len(load_run(out).measurements) == 4


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
