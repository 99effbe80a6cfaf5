"""Kernels compiled for sm_90 in child processes, on a machine without a GPU: registers, spills, shared memory, SASS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v3bench.suite.meter.child import Process, closing, share

WORKER = "v3bench.suite.meter.compile_worker"


@dataclass(frozen=True)
class Job:
    """One operation at a shape, launched with a configuration; None: a form of it, with its launcher's choice."""

    op: str
    shape: Mapping[str, Any]
    config: Mapping[str, Any] | None


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


class Compiler(Process):
    """A child process that compiles jobs."""

    def __init__(self, triton: Path | None = None) -> None:
        """``triton``: a folder with another Triton than the installed one."""
        super().__init__(WORKER, triton)

    def __call__(self, job: Job) -> Outcome:
        """Compile a job's launches."""
        made = self.ask(
            {"op": job.op, "shape": {**job.shape}, "config": None if job.config is None else {**job.config}}
        )
        return made["error"] if "error" in made else tuple(Built(**launch) for launch in made["launches"])


def compile_all(
    jobs: Sequence[Job],
    *,
    processes: int = 2,
    triton: Path | None = None,
    done: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> Iterator[Outcome]:
    """The outcome of every job, in order; ``done`` hears of each as it ends."""
    with closing([Compiler(triton) for _ in range(min(processes, max(len(jobs), 1)))]) as compilers:
        yield from share(compilers, jobs, Compiler.__call__, done)
