"""What is measured stays, once, whatever ends the run: signals, failures, a full disk."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import Counter

import pytest
from v3bench.suite.run_folder import load_run

# A benchmark that waits, at the case named in the file "stop", for the signal that is on its way.
SLOW = """
import pathlib, time

def test_value(record, case, series):
    stop = pathlib.Path(__file__).with_name("stop")
    if stop.exists() and series == "t/torch" and stop.read_text() == case.name:
        pathlib.Path(__file__).with_name("reached").write_text("")
        # Short sleeps: a signal that comes just before a sleep begins is seen only when that sleep ends.
        for _ in range(600):
            time.sleep(0.1)
    record([1.0], convention="one")
    record([2.0], convention="two")
"""

TIMED = """
def test_value(timed, gate, record, case, series):
    def build():
        gate(lambda: True)
        return {name: (lambda: sum(range(1000))) for name in case.series}
    timed(build)
"""


@pytest.mark.parametrize(
    "number, status", [(signal.SIGKILL, -9), (signal.SIGTERM, 3), (signal.SIGINT, 3), (signal.SIGHUP, 3)]
)
def test_a_killed_run_keeps_all_and_resumes_without_doubling(child, number, status):
    child.write(child.table("a", "b", "c"), tpot=SLOW)
    (child.bench / "stop").write_text("b")
    process = subprocess.Popen(child.command(), stderr=subprocess.PIPE, text=True)
    while not (child.bench / "reached").exists():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == status
    # "a" whole, of "b" the series before the one that was running
    whole = {("a", subject, convention) for subject in "st" for convention in ("one", "two")}
    assert child.taken() == Counter(whole | {("b", "s", "one"), ("b", "s", "two")})
    segment = load_run(child.out).info["segments"][0]
    assert segment["exit"] == (None if number == signal.SIGKILL else 3)
    if number != signal.SIGKILL:
        assert "Traceback" not in said
        assert "what was measured is kept" in said

    (child.bench / "stop").unlink()
    done = child.start(resume=True)
    assert done.returncode == 0, done.stderr
    assert child.taken() == Counter(
        (case, subject, convention) for case in "abc" for subject in "st" for convention in ("one", "two")
    )
    assert len(load_run(child.out).info["segments"]) == 2
    names = [entry["name"] for entry in json.loads((child.out / "benchmark.json").read_text())["benchmarks"]]
    assert sorted(names) == sorted(f"test_value[{case}-{subject}/torch]" for case in "abc" for subject in "st")


def test_what_a_benchmark_says_is_heard_while_it_runs(child):
    """pytest catches what benchmarks print, and not what they say of their progress."""
    told = """
def test_value(record, case, series):
    print("printed")
    record.session.plan.say(f"half of {series} is done")
    record([1.0])
"""
    child.write(child.table("a"), tpot=told)
    done = child.start()
    assert "half of s/torch is done" in done.stderr
    assert "half of t/torch is done" in done.stderr
    assert "printed" not in done.stderr + done.stdout


def test_a_hang_up_that_is_ignored_ends_nothing(child):
    child.write(child.table("a"), tpot=SLOW.replace("range(600)", "range(10)"))
    (child.bench / "stop").write_text("a")
    process = subprocess.Popen(["nohup", *child.command()], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (child.bench / "reached").exists():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    assert len(child.taken()) == 4
    process.communicate()


def test_resume_of_a_whole_run_measures_nothing(child, quick):
    child.write(child.table("a"), tpot=quick)
    assert child.start().returncode == 0
    before = (child.out / "measurements.jsonl").read_bytes()
    done = child.start(resume=True)
    assert done.returncode == 0
    assert (child.out / "measurements.jsonl").read_bytes() == before
    assert "0 measured, 0 skipped, 0 failed" in done.stderr


def test_a_second_run_without_resume_is_another_launch(child, quick):
    child.write(child.table("a"), tpot=quick)
    for _ in range(2):
        assert child.start().returncode == 0
    run = load_run(child.out)
    assert set(child.taken().values()) == {2}
    assert {m.launch for m in run.measurements} == {segment["launch"] for segment in run.info["segments"]}


def test_resume_puts_back_the_entries_of_benchmark_json(child):
    """A kill between a record and its entry: the entry comes from the record, which is not measured again."""
    child.write(child.table("a", basis="measured"), tpot=TIMED)
    assert child.start().returncode == 0
    before = (child.out / "measurements.jsonl").read_bytes()
    medians = {
        b["name"]: b["stats"]["median"] for b in json.loads((child.out / "benchmark.json").read_text())["benchmarks"]
    }
    (child.out / "benchmark.json").unlink()
    assert child.start(resume=True).returncode == 0
    assert (child.out / "measurements.jsonl").read_bytes() == before
    again = {
        b["name"]: b["stats"]["median"] for b in json.loads((child.out / "benchmark.json").read_text())["benchmarks"]
    }
    assert again == pytest.approx(medians)
    assert len(again) == 2


def test_failures_and_skips_are_records_and_the_rest_goes_on(child, quick):
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
    child.write(child.table("skips", "fails", "works"), tpot=mixed)
    done = child.start()
    assert done.returncode == 1
    found = {(m.case, m.subject): (m.status, m.why) for m in load_run(child.out).measurements}
    for subject in "st":
        assert found["skips", subject] == ("skipped", "no such GPU")
        assert found["fails", subject] == ("failed", "RuntimeError: two lines")
        assert found["works", subject] == ("ok", "")
    assert len(load_run(child.out).measurements) == 6
    assert "2 measured, 2 skipped, 2 failed" in done.stderr
    assert "RuntimeError" in (child.out / "pytest.log").read_text()

    child.write(child.table("skips", "fails", "works"), tpot=quick)
    assert child.start(resume=True).returncode == 0
    run = load_run(child.out)
    assert {m.status for m in run.measurements} == {"ok"}
    assert sum(m.case == "works" for m in run.measurements) == 2  # not measured again


def test_a_disk_that_fills_up_keeps_what_was_measured(child, quick):
    child.write(child.table(*"abcdefghij"), tpot=quick)
    done = child.start(limit=6000)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"cannot be written \(File too large\)", done.stderr), last
    found = load_run(child.out)
    assert found.messages == ()
    assert 0 < len(found.measurements) < 40
    assert child.start(resume=True).returncode == 0
    assert set(child.taken().values()) == {1}
    assert len(child.taken()) == 40


def test_a_disk_full_from_the_start_is_one_line_and_status_2(child, quick):
    child.write(child.table("a"), tpot=quick)
    done = child.start(limit=10)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be written" in done.stderr
