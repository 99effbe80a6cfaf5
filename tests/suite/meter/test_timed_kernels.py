"""Recorder.timed_kernels under a real pytest, on a pretended GPU: records, fates, telemetry, going on with a run."""

from __future__ import annotations

import json

import pytest

pytest_plugins = "pytester"

CASES = """
[a]
area = "kernels"
bench = "race"
metric = "time"
basis = "measured"
version = 1
subjects = ["kernels.x"]
impls = ["ours", "rival", "third"]
profiles = ["full"]
why = "a test"
{more}
"""

BENCH = """
from pathlib import Path

from v3bench.suite.meter.contender import Contender

def launch(): pass

def test_race(record, gate, case, series):
    def build():
        Path("builds").open("a").write("b")
        gate(lambda: {gate})
        return {{"kernels.x/ours": {ours}, "kernels.x/rival": {rival}, "kernels.x/third": Contender([launch])}}
    record.timed_kernels(build, precision="fp8")
"""

CONFTEST = """
import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from v3bench.suite.meter.competition import Instruments
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.meter.plugin import SESSION
from v3bench.suite.meter.telemetry import Snapshot

pytest_plugins = ("v3bench.suite.meter.plugin",)
TELEMETRY = {telemetry}

def capture(calls):
    calls[0]()
    return SimpleNamespace(launches=2, replay=calls[0], release=lambda: None)

class Gpu:
    def snapshot(self): return Snapshot(1.7e9, 3e9, 640.0, 55.0, ("software power cap",))
    def others(self): return 0
    def energy(self): return None

@pytest.fixture(autouse=True)
def pretended(request):
    session = request.config.stash[SESSION]
    session.plan.device = "cuda"
    session.instruments = Instruments(
        capture=capture, hot=lambda: lambda run: (run(), 4e-6)[1], cold=lambda: lambda run: (run(), 9e-6)[1],
        synchronize=lambda: None, telemetry=Gpu() if TELEMETRY else None,
    )
    session.stored = lambda case, series: STORED.get(series, [])

def stored(series):
    return Measurement(
        area="kernels", subject="kernels.x", impl=series.split("/")[1], case="a", case_version=1, metric="time",
        basis="measured", scale="proxy", device="cuda", clock="device-hot", samples=(5e-6,) * 8,
    )

STORED = {{series: [stored(series)] for series in {stored}}}

def pytest_sessionfinish(session):
    open("records.json", "w").write(json.dumps([asdict(m) for m in session.config.stash[SESSION].records]))
"""


@pytest.fixture
def race(pytester, monkeypatch):
    """Runs the race; (outcome of the items in order, benchmark JSON by series, records)."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(
        ours="Contender([launch])", rival="Contender([launch])", gate="None", more="", telemetry=True, stored=(),
        options=(),
    ):  # fmt: skip
        cases = pytester.makefile(".toml", cases=CASES.format(more=more))
        pytester.makepyfile(bench_kernels=BENCH.format(ours=ours, rival=rival, gate=gate))
        pytester.makeconftest(CONFTEST.format(telemetry=telemetry, stored=tuple(stored)))
        result = pytester.runpytest_subprocess(
            "bench_kernels.py", "--v3-cases", cases, "--v3-device", "cpu", "--v3-profile=full", "-rA",
            "--benchmark-json=out.json", "-p", "no:cacheprovider", "-p", "pytest_benchmark.plugin", *options,
            timeout=120,
        )  # fmt: skip
        out = pytester.path / "out.json"
        shown = json.loads(out.read_text())["benchmarks"] if out.exists() and out.stat().st_size else []
        records = json.loads((pytester.path / "records.json").read_text())
        return result, {entry["params"]["series"]: entry for entry in shown}, records

    return run


def rows(records):
    return [(m["impl"], m["metric"], m["status"], m["why"]) for m in records]


def test_each_series_has_its_time_and_what_the_gpu_did(race, pytester):
    result, shown, records = race()
    result.assert_outcomes(passed=3)
    metrics = ["time", "sm_clock", "power", "temperature"]
    assert [(m["impl"], m["metric"]) for m in records] == [(i, n) for i in ("ours", "rival", "third") for n in metrics]
    time, clock, power, temperature = records[:4]
    assert (time["samples"], time["clock"], time["precision"]) == ([2e-6] * 40, "device-hot", "fp8")
    assert (time["device"], time["basis"], time["status"], time["subject"]) == ("cuda", "measured", "ok", "kernels.x")
    assert set(clock["samples"]) == {1.7e9}
    assert set(power["samples"]) == {640.0}
    assert set(temperature["samples"]) == {55.0}
    assert {clock["clock"], power["clock"], temperature["clock"]} == {"none"}
    entry = shown["kernels.x/rival"]
    assert entry["stats"]["median"] == pytest.approx(2e-6)
    assert entry["extra_info"]["steady"] is True
    assert entry["extra_info"]["spread"] == 0
    told = entry["extra_info"]["telemetry"]
    assert (told["repeated_rounds"], told["others"]) == (0, 0)
    assert set(told["reasons"]) == {"software power cap"}
    assert (pytester.path / "builds").read_text() == "b"


def test_a_cold_case_has_the_cold_clock(race):
    _, _, records = race(more="cold = true")
    times = [m for m in records if m["metric"] == "time"]
    assert [(m["clock"], m["samples"][0]) for m in times] == [("device-cold", 9e-6)] * 3


def test_without_nvml_only_times_are_recorded(race):
    _, shown, records = race(telemetry=False)
    assert {m["metric"] for m in records} == {"time"}
    assert shown["kernels.x/ours"]["extra_info"]["telemetry"] == {
        "snapshots": 0, "reasons": {}, "repeated_rounds": 0, "void": [], "others": None,
    }  # fmt: skip


def test_a_missing_rival_is_skipped_and_the_others_are_timed(race, pytester):
    result, shown, records = race(rival="Contender(missing='no flash_mla package')", telemetry=False)
    result.assert_outcomes(passed=2, skipped=1)
    assert sorted(rows(records)) == [
        ("ours", "time", "ok", ""), ("rival", "time", "skipped", "no flash_mla package"), ("third", "time", "ok", ""),
    ]  # fmt: skip
    assert set(shown) == {"kernels.x/ours", "kernels.x/third"}
    assert (pytester.path / "builds").read_text() == "b"


def test_when_the_first_fails_what_was_timed_beside_it_is_kept(race):
    result, shown, records = race(ours="Contender([lambda: 1 / 0])", telemetry=False)
    result.assert_outcomes(passed=2, failed=1)
    assert sorted(rows(records)) == [
        ("ours", "time", "failed", "ZeroDivisionError: division by zero"), ("rival", "time", "ok", ""),
        ("third", "time", "ok", ""),
    ]  # fmt: skip
    assert set(shown) == {"kernels.x/rival", "kernels.x/third"}


def test_errors_found_by_the_gate_stand_beside_the_times_whatever_becomes_of_the_first(race):
    note = "record.beside([0.5], series='kernels.x/third', metric='error_of_bar', precision='fp8')"
    _, _, records = race(ours="Contender([lambda: 1 / 0])", gate=note, telemetry=False)
    (error,) = [m for m in records if m["metric"] == "error_of_bar"]
    assert (error["impl"], error["samples"], error["clock"], error["status"]) == ("third", [0.5], "none", "ok")


def test_a_red_gate_times_nobody(race, pytester):
    result, shown, records = race(gate="'off by 3'")
    result.assert_outcomes(failed=3)
    assert shown == {}
    assert rows(records) == [(impl, "time", "failed", "gate: off by 3") for impl in ("ours", "rival", "third")]
    assert (pytester.path / "builds").read_text() == "b"


ALL = ("kernels.x/ours", "kernels.x/rival", "kernels.x/third")


def test_a_resumed_case_shows_what_is_stored(race, pytester):
    result, shown, records = race(stored=ALL)
    result.assert_outcomes(passed=3)
    assert records == []
    assert [entry["stats"]["median"] for entry in shown.values()] == pytest.approx([5e-6] * 3)
    assert not (pytester.path / "builds").exists()


def test_a_resumed_case_that_lacks_a_missing_rival_is_not_timed_again(race):
    result, shown, records = race(stored=(ALL[0], ALL[2]), rival="Contender(missing='still not there')")
    result.assert_outcomes(passed=2, skipped=1)
    assert rows(records) == [("rival", "time", "skipped", "still not there")]
    assert set(shown) == {ALL[0], ALL[2]}


def test_a_resumed_case_that_lacks_a_time_is_timed_anew_as_a_whole(race):
    """Ratios are of samples of one launch."""
    result, _, records = race(stored=(ALL[0],), telemetry=False)
    result.assert_outcomes(passed=3)
    assert [m["samples"][0] for m in records] == [2e-6] * 3


def test_benchmark_disable_records_nothing(race):
    result, shown, records = race(rival="Contender(missing='none')", options=["--benchmark-disable"])
    result.assert_outcomes(passed=2, skipped=1)
    assert (shown, records) == ({}, [])


def test_series_that_are_no_contenders_are_named(race):
    _, _, records = race(rival="Contender([launch]), 'kernels.x/fourth': Contender([launch])")
    assert "has series kernels.x/ours, kernels.x/rival, kernels.x/third, not" in records[0]["why"]
