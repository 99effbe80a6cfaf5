"""What the plug-in keeps through one pytest session: the plan, the records so far, what was measured together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from v3bench.suite import models
from v3bench.suite.ledger.cases import PROFILES, Case
from v3bench.suite.meter import machine
from v3bench.suite.meter.clock import Replay
from v3bench.suite.meter.competition import Instruments, Outcome
from v3bench.suite.meter.measurement import AREAS, Measurement
from v3bench.suite.run_folder import BENCHMARK, RunFolder
from v3bench.suite.trials.own import is_own

if TYPE_CHECKING:  # torch, which the plug-in does without
    from v3bench.suite.train.corpus import Corpus

PLAN = "v3bench_plan"


@dataclass(eq=False)
class Plan:
    """What a session is to run: v3bench run makes one; plain pytest gets one from its options."""

    profile: str
    device: str
    cases: Mapping[str, Case]
    areas: tuple[str, ...] = AREAS
    folder: RunFolder | None = None
    launch: str = "pytest"
    resume: bool = False
    checkpoint: str | None = None
    corpus: str | None = None  # a folder of text in place of a course's own
    tokenizer: str | None = None  # a tokenizer.json whose tokens the mtp area's proxies read in place of bytes
    say: Callable[[str], None] = lambda line: None
    session: Session | None = None  # the plug-in's, once pytest has started

    facts: Callable[[str], dict[str, Any]] = machine.describe

    __name__: ClassVar[str] = PLAN  # under which pytest's plug-in manager finds it

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise pytest.UsageError(f"unknown profile {self.profile!r}; expected one of {', '.join(PROFILES)}")
        if self.checkpoint in models.presets():
            self.checkpoint = f"./{self.checkpoint}"  # the folder is meant, not the preset of its name


class Session:
    """The state of one session. Records go to the run folder when there is one, and are kept here."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.replay = Replay()
        self.records: list[Measurement] = []
        self.gates: dict[str, str | None] = {}  # case -> why its check failed, None: passed
        self.times: dict[str, dict[str, tuple[float, ...]]] = {}  # case -> series -> samples taken together
        self.spoiled: dict[str, tuple[str, str]] = {}  # case -> (skipped or failed, why)
        self.fates: dict[str, dict[str, tuple[str, str]]] = {}  # case on a GPU -> series that did not run -> the same
        self.telemetry: dict[str, Outcome] = {}  # case on a GPU -> how its timing went
        self.instruments: Instruments | None = None  # of the GPU, once something is timed there
        self.cut_short = ""  # why the session cannot go on
        self.refused = 0  # benchmarks that ended with BadInput
        self.tracebacks: list[str] = []
        self.benchmarks: dict[str, Any] = read_benchmark(plan.folder)
        self.started = time.monotonic()

    def stored(self, case: Case, series: str) -> list[Measurement]:
        """What the run folder already holds of one series, on this device."""
        if self.plan.folder is None or not self.plan.resume:
            return []
        subject, _, impl = series.partition("/")
        if is_own(impl):  # it may have been edited since: its name says nothing of its code
            return []
        wanted = (case.name, case.version, case.metric, subject, impl, self.plan.device)
        return [
            m for m in self.plan.folder.found
            if m.status == "ok" and (m.case, m.case_version, m.metric, m.subject, m.impl, m.device) == wanted
        ]  # fmt: skip

    def done(self, case: Case, series: str, nodeid: str) -> bool:
        """Whether a series needs no run: it is measured, and benchmark.json shows its times.

        A run that was killed between the two has to show them still; ``Recorder.timed`` then takes what is stored.
        """
        stored = self.stored(case, series)
        shown = any(entry["fullname"] == nodeid for entry in self.benchmarks.get("benchmarks", []))
        return bool(stored) and (shown or stored[-1].clock == "none")

    def keep(self, *records: Measurement) -> None:
        """Put records on disk. Ends the session when the disk takes no more."""
        try:
            if self.plan.folder is not None and records:
                self.plan.folder.append(*records)
            self.records.extend(records)
        except OSError as error:
            names = ", ".join(sorted({f"{m.case} ({m.subject})" for m in records}))
            where = self.plan.folder.path if self.plan.folder else ""
            self.cut_short = f"{where}: cannot be written ({error.strerror}); all but {names} is kept"
            pytest.exit(self.cut_short, returncode=3)

    def list_corpus(self, text: Corpus) -> None:
        """Put the list of what was trained on into the run folder, once."""
        name = f"corpus-{text.sha256[:12]}.json"
        if self.plan.folder is not None and not (self.plan.folder.path / name).exists():
            self.plan.folder.write(name, text.as_json())

    def keep_benchmark(self, entry: Mapping[str, Any] | None) -> None:
        """Put one session's pytest-benchmark JSON into benchmark.json, its entries over those of the same name."""
        if self.plan.folder is None or entry is None:
            return
        merged = {b["fullname"]: b for b in self.benchmarks.get("benchmarks", [])} | {
            b["fullname"]: b for b in entry["benchmarks"]
        }
        self.benchmarks = {**entry, "benchmarks": list(merged.values())}
        try:
            self.plan.folder.write(BENCHMARK, self.benchmarks)
        except OSError as error:
            self.cut_short = (
                f"{self.plan.folder.path}: cannot be written ({error.strerror}); the measurements so far are kept"
            )
            pytest.exit(self.cut_short, returncode=3)


def read_benchmark(folder: RunFolder | None) -> dict[str, Any]:
    """benchmark.json as it is, or nothing: it can be made again from the measurements."""
    try:
        read = json.loads((folder.path / BENCHMARK).read_text(encoding="utf-8")) if folder else {}
        return read if isinstance(read.get("benchmarks"), list) else {}
    except (OSError, ValueError, AttributeError):
        return {}
