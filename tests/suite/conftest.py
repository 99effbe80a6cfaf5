"""Runs of v3bench in a child process, on benchmarks written by the test: pytest within pytest would share its state."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from v3bench.suite.run_folder import load_run

CHILD = """
import resource, signal, sys
from pathlib import Path
from v3bench.model_ref.errors import BadInput
from v3bench.suite import runner

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
bench, out, profile, resume, limit = sys.argv[1:6]
facts = {
    "commit": "a", "dirty": False, "lock_sha256": None, "packages": {}, "python": "3", "platform": "Linux",
    "device": "cpu", "cpu": {"model": "A", "cores": 2, "threads": 2, "memory_bytes": 1}, "gpus": [], "driver": None,
}
if limit != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
stream = sys.stderr  # as the command has it: pytest puts another in its place
say = lambda line: print(line, file=stream, flush=True)
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


class Child:
    """Benchmarks under ``path``, and the run of them into ``out``."""

    def __init__(self, path):
        self.path, self.out, self.bench = path, path / "out", path / "suite" / "bench"

    def write(self, cases, **files):
        """Benchmarks and their table: area -> source."""
        self.bench.mkdir(parents=True, exist_ok=True)
        (self.path / "cases.toml").write_text("".join(CASE.format(**case) for case in cases))
        for area, source in files.items():
            (self.bench / f"bench_{area}.py").write_text(source)

    def command(self, resume=False, limit=0, profile="smoke"):
        arguments = [str(self.path), str(self.out), profile, "resume" if resume else "new", str(limit)]
        return [sys.executable, "-c", CHILD, *arguments]

    def start(self, env=None, **options):
        command = self.command(**options)
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=self.path, env=env)

    def taken(self):
        """How often each series has each convention."""
        return Counter((m.case, m.subject, m.convention) for m in load_run(self.out).measurements)

    @staticmethod
    def table(*names, area="tpot", bench="value", basis="counted"):
        return [{"name": name, "area": area, "bench": bench, "basis": basis} for name in names]


@pytest.fixture
def child(tmp_path):
    """Writes and runs benchmarks in a child process."""
    return Child(tmp_path)


@pytest.fixture
def quick():
    """A benchmark of two records a series that takes no time."""
    return QUICK
