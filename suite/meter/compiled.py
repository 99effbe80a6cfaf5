"""Kernels compiled for sm_90 in child processes, on a machine without a GPU: registers, spills, shared memory, SASS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

WORKER = "v3bench.suite.meter.compile_worker"


@dataclass(frozen=True)
class Job:
    """One operation at a shape, launched with a configuration."""

    op: str
    shape: Mapping[str, int]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Built:
    """One launch of a job as compiled; the fields of kernels/aot.py's Compiled, and the programs of its grid."""

    triton: str  # the version that compiled it
    name: str
    programs: int
    l2_bytes: int  # asked of the L2 by all programs; 0 where tiles are read once
    passes: int  # of a program through its loop; 0: not told
    warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    instructions: Mapping[str, int]
    loop: Mapping[str, int]
    loop_flops: int
    loop_bytes: int
    spills: bool
    ctas_per_sm: int


Outcome = tuple[Built, ...] | str  # the launches, or why there are none


class Compiler:
    """One child process; restarted when a job ends it."""

    def __init__(self, triton: Path | None = None) -> None:
        """``triton``: a folder with another Triton than the installed one."""
        self.environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        if triton is not None:
            paths = [str(triton), *filter(None, [self.environment.get("PYTHONPATH")])]
            self.environment["PYTHONPATH"] = os.pathsep.join(paths)
        self.child: subprocess.Popen[str] | None = None

    def __call__(self, job: Job) -> Outcome:
        """Compile a job's launches."""
        if self.child is None:
            # -P: folders of the working directory are no packages, whatever they are called.
            pipe = subprocess.PIPE
            self.child = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER],
                stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=self.environment,
            )  # fmt: skip
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.write(json.dumps({"op": job.op, "shape": {**job.shape}, "config": {**job.config}}) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return f"the compiler ended its process with status {self.close()}"
        made = json.loads(line)
        return made["error"] if "error" in made else tuple(Built(**launch) for launch in made["launches"])

    def close(self) -> int | None:
        """End the child process; its status, None where there is none."""
        if self.child is None:
            return None
        with suppress(BrokenPipeError):
            self.child.communicate()
        child, self.child = self.child, None
        return child.returncode


def compile_all(
    jobs: Sequence[Job],
    *,
    processes: int = 2,
    triton: Path | None = None,
    done: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> Iterator[Outcome]:
    """The outcome of every job, in order; ``done`` hears of each as it ends."""
    compilers = [Compiler(triton) for _ in range(min(processes, max(len(jobs), 1)))]
    free: SimpleQueue[Compiler] = SimpleQueue()
    for compiler in compilers:
        free.put(compiler)

    def work(job: Job) -> Outcome:
        compiler = free.get()
        try:
            outcome = compiler(job)
        finally:
            free.put(compiler)
        done(job, outcome)
        return outcome

    try:
        with ThreadPoolExecutor(len(compilers)) as pool:
            yield from pool.map(work, jobs)
    finally:
        for compiler in compilers:
            compiler.close()
