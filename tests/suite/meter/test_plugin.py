"""The plug-in under a real pytest: times are gated and shown as measured, skips and failures are kept."""

from __future__ import annotations

import json
import statistics

import pytest

pytest_plugins = "pytester"

CASE = """
[{name}]
area = "tpot"
bench = "race"
metric = "m"
basis = "measured"
version = 3
subjects = ["deepseek-v3-tiny"]
impls = ["torch", "other"]
profiles = ["smoke", "quick"]
why = "a test"
"""

RACE = """
import pytest

def wait(seconds):
    import time
    return lambda: time.sleep(seconds)

def test_race(timed, gate, record, case, series):
    def build():
        {before}
        return {{"deepseek-v3-tiny/torch": wait(0.001), "deepseek-v3-tiny/other": wait(0.003)}}
    timed(build, precision="float32")
    {after}
"""


@pytest.fixture
def race(pytester, monkeypatch):
    """Runs a race of two implementations; (pytest's result, benchmark JSON, records of the session)."""

    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # faster; tests/suite/bench has all plug-ins

    def run(before="gate(lambda: None)", after="", source="", options=(), names=("a",)):
        cases = pytester.makefile(".toml", cases="".join(CASE.format(name=name) for name in names))
        pytester.makepyfile(bench_tpot=source or RACE.format(before=before, after=after))
        pytester.makeconftest(
            "import json\n"
            "from dataclasses import asdict\n"
            'pytest_plugins = ("v3bench.suite.meter.plugin",)\n'
            "def pytest_sessionfinish(session):\n"
            "    from v3bench.suite.meter.plugin import SESSION\n"
            "    records = [asdict(m) for m in session.config.stash[SESSION].records]\n"
            "    open('records.json', 'w').write(json.dumps(records))\n"
        )
        result = pytester.runpytest_subprocess(
            "bench_tpot.py", "--v3-cases", cases, "--v3-device", "cpu", "--benchmark-json=out.json", "-p",
            "no:cacheprovider",
            "-p", "pytest_benchmark.plugin",
            *(options or ["--v3-profile=smoke"]), timeout=120,
        )  # fmt: skip
        out = pytester.path / "out.json"
        shown = json.loads(out.read_text())["benchmarks"] if out.exists() and out.stat().st_size else []
        return result, shown, json.loads((pytester.path / "records.json").read_text())

    return run


def test_pytest_benchmark_shows_what_was_recorded(race):
    result, shown, records = race()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*benchmark 'tpot: a': 2 tests*"])
    recorded = {m["impl"]: m["samples"] for m in records}
    assert set(recorded) == {"torch", "other"}
    for entry in shown:
        samples = recorded[entry["params"]["series"].split("/")[1]]
        assert entry["stats"]["median"] == pytest.approx(statistics.median(samples), rel=1e-9)
        assert entry["stats"]["data"] == pytest.approx(samples, rel=1e-6)
        assert entry["stats"]["rounds"] == len(samples) >= 6
        assert entry["options"]["timer"] == "replay"
    assert len(shown) == 2
    assert "UNSERIALIZABLE" not in json.dumps(shown)
    assert " at 0x" not in json.dumps(shown)


def test_every_record_says_what_it_is_of(race):
    _, shown, records = race()
    for m in records:
        assert (m["area"], m["case"], m["case_version"], m["metric"]) == ("tpot", "a", 3, "m")
        assert (m["subject"], m["basis"], m["scale"]) == ("deepseek-v3-tiny", "measured", "proxy")
        assert (m["device"], m["clock"], m["precision"], m["status"]) == ("cpu", "host", "float32", "ok")
    in_entry = [entry["extra_info"]["measurements"][0] for entry in shown if entry["extra_info"]["measurements"]]
    assert {m["impl"]: m["case"] for m in in_entry} == {"torch": "a", "other": "a"}


@pytest.mark.parametrize(
    "before, why",
    [
        ("gate(lambda: 'logits differ by 2')", "gate: logits differ by 2"),
        ("gate(lambda: False)", "gate: the correctness check failed"),
        ("gate(lambda: pytest.fail('far off'))", "far off"),
        ("def check():\n            assert 1 == 2, 'one is two'\n        gate(check)", "gate: one is two"),
        ("pass", "gate: no correctness check ran before the timing"),
    ],
)
def test_no_time_without_a_passed_check(race, before, why):
    result, shown, records = race(before=before)
    result.assert_outcomes(failed=2)
    assert shown == []
    assert [(m["impl"], m["status"], m["samples"]) for m in records] == [
        ("torch", "failed", []),
        ("other", "failed", []),
    ]
    assert all(why in m["why"] for m in records)


def test_a_gate_of_one_case_opens_no_other(race):
    source = RACE.format(before="if case.name == 'a': gate(lambda: None)", after="")
    result, _, records = race(source=source, names=("a", "b"))
    result.assert_outcomes(passed=2, failed=2)
    assert {(m["case"], m["status"]) for m in records} == {("a", "ok"), ("b", "failed")}


def test_a_failure_after_the_timing_voids_the_time(race):
    result, shown, records = race(after="assert series.endswith('other'), 'too late'")
    result.assert_outcomes(failed=2)  # what was taken together stands and falls together
    assert shown == []
    assert [(m["impl"], m["status"], m["why"]) for m in records] == [
        ("torch", "failed", "AssertionError: too late"), ("other", "failed", "AssertionError: too late"),
    ]  # fmt: skip


def test_an_unexpected_exception_is_a_record(race):
    _, shown, records = race(before="raise MemoryError('no room')")
    assert shown == []
    assert [(m["status"], m["why"]) for m in records] == [("failed", "MemoryError: no room")] * 2


def test_a_skip_is_a_record_of_every_series(race):
    result, shown, records = race(before="pytest.skip('no transformers package')")
    result.assert_outcomes(skipped=2)
    assert shown == []
    assert [(m["impl"], m["status"], m["why"]) for m in records] == [
        ("torch", "skipped", "no transformers package"), ("other", "skipped", "no transformers package"),
    ]  # fmt: skip


def test_a_skip_in_a_fixture_is_a_record(race):
    source = RACE.format(before="gate(lambda: None)", after="") + (
        "\n@pytest.fixture(autouse=True)\ndef gpu():\n    pytest.skip('needs a GPU')\n"
    )
    _, _, records = race(source=source)
    assert [(m["impl"], m["status"], m["why"]) for m in records] == [
        ("torch", "skipped", "needs a GPU"), ("other", "skipped", "needs a GPU"),
    ]  # fmt: skip


def test_a_case_for_another_device_is_skipped_once_and_never_built(race):
    source = RACE.format(before="raise AssertionError('built')", after="")
    result, shown, records = race(source=source, names=('a]\ndevice = "cuda"\n#',))
    result.assert_outcomes(skipped=1, deselected=1)
    assert shown == []
    assert [(m["impl"], m["status"], m["why"]) for m in records] == [("torch", "skipped", "needs a CUDA device")]


def test_benchmark_disable_runs_once_and_records_nothing(race):
    counting = RACE.format(before="gate(lambda: None)", after="").replace(
        "return lambda: time.sleep(seconds)", "return lambda: open('calls', 'a').write('x')"
    )
    result, shown, records = race(source=counting, options=["--benchmark-disable"])
    result.assert_outcomes(passed=2)
    assert (shown, records) == ([], [])
    from pathlib import Path

    assert Path("calls").read_text() == "xx"  # one call of each of the two


def test_a_benchmark_that_records_nothing_fails(race):
    result, _, records = race(source="def test_race(record, case, series):\n    pass\n")
    result.assert_outcomes(failed=2)
    assert "recorded nothing" in records[0]["why"]


def test_wrong_series_are_named(race):
    source = (
        "def test_race(timed, gate, record, case, series):\n    gate(lambda: None)\n    timed(lambda: {'x/y': int})\n"
    )
    _, _, records = race(source=source)
    assert "has series deepseek-v3-tiny/torch, deepseek-v3-tiny/other, not x/y" in records[0]["why"]


def test_cprofile_does_not_break_the_replay(race):
    result, _, records = race(options=["--benchmark-cprofile=tottime"])
    result.assert_outcomes(passed=2)
    assert len(records) == 2


def test_other_profiles_are_deselected(race):
    result, _, records = race(options=["--v3-profile=full"])
    result.assert_outcomes(deselected=2)
    assert records == []


def test_a_benchmark_without_a_case_is_an_error(race):
    result, _, _ = race(source="def test_walk(record, case, series):\n    pass\n")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*no case in cases.toml has area 'tpot' and bench 'walk'*"])


def test_an_unknown_profile_is_refused(race, pytester):
    (pytester.path / "records.json").write_text("[]")
    result, _, _ = race(options=["--v3-profile=fast"])
    result.stderr.fnmatch_lines(["*unknown profile 'fast'; expected one of smoke, quick, standard, full*"])


def test_machine_info_has_no_clocks_watts_or_host_name(race, pytester):
    import platform

    race()
    info = json.loads((pytester.path / "out.json").read_text())["machine_info"]
    assert info["device"] == "cpu"
    assert set(info["cpu"]) == {"model", "cores", "threads", "memory_bytes"}
    assert "gpus" in info
    text = json.dumps(info).lower()
    assert not any(word in text for word in ("hz", "watt", "power", "temperature"))
    assert f'"{platform.node().lower()}"' not in text


@pytest.mark.parametrize(
    "options, what",
    [
        (["--v3-device=tpu"], "invalid choice: 'tpu'"),
        (["--v3-cases=nowhere.toml"], "nowhere.toml: cannot be read (No such file or directory)"),
    ],
)
def test_a_wrong_option_is_wrong_usage(race, pytester, options, what):
    (pytester.path / "records.json").write_text("[]")
    result, _, _ = race(options=["--v3-profile=smoke", *options])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert what in result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
