"""The pytest plug-in: benchmarks that record Measurements, shown by pytest-benchmark.

    case, series     parameters, by name, from cases.toml: the benchmark test_<bench> of bench_<area>.py gets its cases
    record           record(samples, convention=...): keep a value that is no time
    timed            timed(build): time all series of a case interleaved, after its gate
    gate             gate(check): a correctness check without which nothing of the case is timed
    effort, device   how much to measure, by profile; "cpu" or "cuda"

Load it with ``-p v3bench.suite.meter.plugin``, or name it in a conftest. Nothing is written under --benchmark-disable.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import cases as case_table
from v3bench.suite.ledger.cases import Case
from v3bench.suite.meter.measure import EFFORTS, ONCE, Effort
from v3bench.suite.meter.progress import Progress, unsteady
from v3bench.suite.meter.recorder import Recorder
from v3bench.suite.meter.session import PLAN, Plan, Session

SESSION = pytest.StashKey[Session]()
PROGRESS = pytest.StashKey[Progress]()
RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("v3bench")
    group.addoption("--v3-profile", default="quick", help="smoke, quick, standard or full (default: quick)")
    group.addoption("--v3-device", choices=("cpu", "cuda"), help="cpu or cuda (default: cuda where there is one)")
    group.addoption("--v3-checkpoint", default=None, help="a released checkpoint, for the cases that want one")
    group.addoption("--v3-corpus", default=None, help="a folder of text that the mtp area trains and measures on")
    group.addoption("--v3-tokenizer", default=None, help="a tokenizer.json: its tokens, not bytes, for mtp's proxies")
    group.addoption("--v3-cases", default=str(case_table.PATH), help="the file of cases")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    plan = config.pluginmanager.get_plugin(PLAN)
    if plan is None:
        try:
            cases = case_table.load(Path(config.getoption("--v3-cases")))
        except BadInput as error:
            raise pytest.UsageError(str(error)) from error
        plan = Plan(
            profile=config.getoption("--v3-profile"), device=config.getoption("--v3-device") or default_device(),
            cases=cases, checkpoint=config.getoption("--v3-checkpoint"), corpus=config.getoption("--v3-corpus"),
            tokenizer=config.getoption("--v3-tokenizer"),
        )  # fmt: skip
    plan.session = config.stash[SESSION] = Session(plan)
    config.pluginmanager.register(Trouble(plan.session))


def default_device() -> str:
    """The device to measure on: "cuda" where torch has one, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames or "record" not in metafunc.fixturenames:
        return
    area, bench = metafunc.module.__name__.rpartition("bench_")[2], metafunc.function.__name__.removeprefix("test_")
    own = [
        case for case in metafunc.config.stash[SESSION].plan.cases.values() if (case.area, case.bench) == (area, bench)
    ]
    if not own:
        raise pytest.UsageError(f"no case in cases.toml has area {area!r} and bench {bench!r}")
    pairs = [(case.name, series) for case in own for series in case.series]
    metafunc.parametrize("case, series", pairs, ids=[f"{case}-{series}" for case, series in pairs], indirect=["case"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    session = config.stash[SESSION]
    keep: list[pytest.Item] = []
    drop: list[pytest.Item] = []
    away: dict[str, list[pytest.Item]] = {}
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        case = session.plan.cases.get(params.get("case", ""))
        if case is None:
            keep.append(item)
            continue
        item.add_marker(pytest.mark.benchmark(timer=session.replay))
        wanted = session.plan.profile in case.profiles and case.area in session.plan.areas
        if elsewhere := case.elsewhere(session.plan.device):
            # One record says so for all its series.
            wanted = wanted and params["series"] == case.series[0]
            item.add_marker(pytest.mark.skip(reason=elsewhere))
            if wanted:
                away.setdefault(elsewhere, []).append(item)
        (keep if wanted and not session.done(case, params["series"], item.nodeid) else drop).append(item)
    if drop:
        config.hook.pytest_deselected(items=drop)
        items[:] = keep
    config.stash[PROGRESS] = Progress(items, session.plan.say, away=away)


class Trouble:
    """Says in a line what pytest would print: a file that cannot be imported fails its cases; an internal error."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def pytest_internalerror(self, excrepr: object) -> bool:
        self.session.tracebacks.append(f"pytest, internally\n{excrepr}\n")
        self.session.plan.say(f"pytest broke internally: {str(excrepr).strip().splitlines()[-1]}")
        return True  # said; pytest need not print it

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.failed:
            return
        self.session.tracebacks.append(f"{report.nodeid}\n{report.longreprtext}\n")
        why = report.longreprtext.strip().splitlines()[-1].removeprefix("E").strip()
        self.session.plan.say(f"{report.nodeid} cannot be collected: {why}")
        plan, area = self.session.plan, Path(report.nodeid).stem.removeprefix("bench_")
        own = [case for case in plan.cases.values() if case.area == area and plan.profile in case.profiles]
        for case in own:
            blank = Recorder(self.session, case, "", None, ONCE).blank
            self.session.keep(*(blank(series, status="failed", why=why[:300]) for series in case.series))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    item.config.stash[PROGRESS].begin(item)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    result = yield
    if recorder := pyfuncitem.stash.get(RECORDER, None):
        recorder.show()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report: pytest.TestReport = yield
    session = item.config.stash[SESSION]
    recorder = item.stash.get(RECORDER, None)
    enabled = not item.config.getoption("benchmark_disable", False)
    if report.failed and call.excinfo and isinstance(call.excinfo.value, BadInput):
        session.refused += 1  # its one line says it all
    elif report.failed:
        session.tracebacks.append(f"{item.nodeid}\n{report.longreprtext}\n")
    if not enabled or "case" not in getattr(getattr(item, "callspec", None), "params", {}):
        return report
    if report.when == "call" and report.passed and recorder:
        session.keep(*recorder.pending)
        if remark := unsteady(recorder.pending):
            item.config.stash[PROGRESS].note(remark)
        if session.plan.folder is not None:
            session.keep_benchmark(benchmark_json(item.config, recorder.benchmark))
    elif report.when != "teardown" and not report.passed:
        why = reason(report, call)
        params = item.callspec.params  # type: ignore[attr-defined]
        case = session.plan.cases[params["case"]]
        session.spoiled.setdefault(case.name, (report.outcome, why))
        who = f"{params['series'].rpartition('/')[2]}: " if len(case.impls) > 1 else ""
        item.config.stash[PROGRESS].note(f"{report.outcome}: {who}{why}")
        blank = Recorder(session, case, params["series"], None, ONCE).blank
        settled = recorder.settled if recorder else []
        session.keep(*settled, blank(params["series"], status=report.outcome, why=why))
    return report


def reason(report: pytest.TestReport, call: pytest.CallInfo[None]) -> str:
    """Why an item was skipped or failed, in one line."""
    if report.skipped and isinstance(report.longrepr, tuple):
        text = report.longrepr[2].removeprefix("Skipped: ")
    elif call.excinfo and isinstance(call.excinfo.value, BadInput):
        return str(call.excinfo.value)
    else:
        lines = call.excinfo.exconly().splitlines() if call.excinfo else []
        # What pytest adds to a failed assertion starts with "assert"; the message stands before it.
        said = [line for n, line in enumerate(lines) if n == 0 or not line.lstrip().startswith(("assert ", "+"))]
        text = " ".join(said).removeprefix("Failed: ")
    return " ".join(text.split())[:300] or "no reason given"


def benchmark_json(config: pytest.Config, benchmark: Any) -> dict[str, Any] | None:
    """pytest-benchmark's JSON of one benchmark, made by its own hooks."""
    if benchmark.stats is None:
        return None
    hook = config.hook
    machine_info = hook.pytest_benchmark_generate_machine_info(config=config)
    commit_info = hook.pytest_benchmark_generate_commit_info(config=config)
    made = hook.pytest_benchmark_generate_json(
        config=config,
        benchmarks=[benchmark.stats],
        include_data=True,
        machine_info=machine_info,
        commit_info=commit_info,
    )
    return dict(made)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    """The machine as run.json has it: no host name, clocks or watts, so that equal machines compare equal."""
    plan = config.stash[SESSION].plan
    facts = plan.facts(plan.device)
    return {key: facts.get(key) for key in ("python", "platform", "device", "cpu", "gpus", "driver", "packages")}


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    """The commit of this code, whatever folder pytest was started in."""
    plan = config.stash[SESSION].plan
    facts = plan.facts(plan.device)
    return {"id": facts.get("commit"), "dirty": facts.get("dirty"), "project": "v3bench"}


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The Case of this item; its parameter is the name."""
    return request.config.stash[SESSION].plan.cases[request.param]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """torch's device type: "cpu" or "cuda"."""
    return request.config.stash[SESSION].plan.device


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest) -> str | None:
    """The folder given with --checkpoint, or None."""
    return request.config.stash[SESSION].plan.checkpoint


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Effort:
    """How much to measure, by profile; one call under --benchmark-disable."""
    if request.config.getoption("benchmark_disable", False):
        return ONCE
    return EFFORTS[request.config.stash[SESSION].plan.profile]


@pytest.fixture
def record(
    request: pytest.FixtureRequest, case: Case, series: str, benchmark: Any, effort: Effort
) -> Generator[Recorder, None, None]:
    """Keep a Measurement: see Recorder."""
    recorder = Recorder(request.config.stash[SESSION], case, series, benchmark, effort)
    request.node.stash[RECORDER] = recorder
    yield recorder
    # pytest-benchmark warns of a fixture that was not used; after a failure that is no news.
    benchmark.skipped = benchmark.skipped or benchmark.stats is None


@pytest.fixture
def timed(record: Recorder) -> Any:
    """Time all series of the case together: see Recorder.timed."""
    return record.timed


@pytest.fixture
def gate(record: Recorder) -> Any:
    """Run a correctness check before timing: see Recorder.gate."""
    return record.gate
