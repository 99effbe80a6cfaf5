"""v3bench compile: fill a Triton cache for a Hopper GPU, on any machine, so that a run there need not compile.

Every case of the kernels area is launched on a GPU that is not there (kernels/standin.py), at all of its shapes: first
only to hear which kernels are asked for, then to compile each once. Tables may have rows of a GPU's own name; what
these ask for is compiled, too.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from v3bench.kernels import catalog, tables
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import cases
from v3bench.suite.meter import triton_cache
from v3bench.suite.meter.child import Process, closing, share
from v3bench.suite.meter.progress import Compiling
from v3bench.suite.trials import own, registry
from v3bench.suite.trials.contest import OURS

WORKER = "v3bench.suite.meter.cache_worker"
MOST = 8  # child processes: half a gigabyte each
# Only what the GPU loads: a third of the bytes. It is no part of a key.
BINARY_ONLY = {"TRITON_STORE_BINARY_ONLY": "1"}

Question = dict[str, Any]


@dataclass
class Cache:
    """A cache as it was filled."""

    folder: Path
    launched: int = 0  # shapes, each on every GPU that tables name
    compiled: int = 0  # kernels
    found: int = 0  # kernels that were there
    seconds: float = 0.0
    compilers: Mapping[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)  # what is not in it, and why

    def lines(self) -> list[str]:
        """The account, and how it is used."""
        kernels, size = self.compiled + self.found, triton_cache.size(self.folder) / 1e6
        versions = ", ".join(f"{name} {version}" for name, version in self.compilers.items())
        return [
            *(f"not in it: {why}" for why in self.failed),
            f"{self.folder}: {kernels} kernels for sm_90, of {self.launched} shapes: {self.compiled} compiled, "
            f"{self.found} found; {self.seconds:.0f} s, {size:.1f} MB",
            f"for {versions} and these sources; what torch.compile, other libraries and kernels of one's own compile "
            "is not in it",
            f"{triton_cache.VARIABLE}={shlex.quote(str(self.folder))} v3bench run --only kernels --device cuda",
        ]


def fill(
    folder: str | Path,
    ops: Sequence[str] = (),
    *,
    say: Callable[[str], None] = lambda line: None,
    processes: int | None = None,
    triton: Path | None = None,
) -> Cache:
    """Compile what the cases of these operations (default: all) launch into a folder. Raises BadInput.

    ``triton``: a folder with another Triton than the installed one. What is compiled is kept, however this ends.
    """
    began, ops = time.monotonic(), [own.ALIASES.get(op, op) for op in ops]
    if unknown := [op for op in ops if op not in registry.FILES]:
        raise BadInput(f"unknown operation {unknown[0]!r}", where="compile", right=f"one of {own.OPERATIONS}")
    if find_spec("triton") is None:
        raise BadInput("triton is not installed", where="compile", right="a machine with Linux")
    cache = Cache(prepared(folder))
    triton_cache.settle(cache.folder)

    shapes = launched(ops)
    cache.launched = len(shapes)
    environment = {triton_cache.VARIABLE: str(cache.folder), **BINARY_ONLY}
    count = min(processes or min(len(os.sched_getaffinity(0)), MOST), len(shapes))
    with closing([Process(WORKER, triton, **environment) for _ in range(count)]) as children:
        say(f"launching {len(shapes)} shapes")
        todo: dict[str, Question] = {}
        for question, answer in zip(shapes, share(children, shapes, Process.ask), strict=True):
            if "error" in answer:
                cache.failed.append(told(question, answer["error"]))
                continue
            cache.compilers = answer["compilers"]
            if not answer["asked"]:  # the worker has compiled nothing yet: no launch was seen
                cache.failed.append(told(question, "launches nothing"))
            for one in answer["asked"]:
                todo.setdefault(one["key"], {**question, "wanted": [one["key"]]})
        say(f"compiling {len(todo)} kernels")
        answers = share(children, list(todo.values()), Process.ask, Compiling("compile", len(todo), say))
        found: dict[str, bool] = {}  # by Triton's own key, which several may share
        for (key, question), answer in zip(todo.items(), answers, strict=True):
            made = [one for one in answer.get("asked", ()) if one["key"] == key]
            if made:
                found[made[0]["hash"]] = found.get(made[0]["hash"], True) and made[0]["hit"]
            else:
                cache.failed.append(told(question, answer.get("error", "it launches other kernels every time")))
    cache.found = sum(found.values())
    cache.compiled = len(found) - cache.found
    cache.seconds = time.monotonic() - began
    return cache


def prepared(folder: str | Path) -> Path:
    """The folder, made, and its whole path. Raises BadInput where Triton could not write to it."""
    path = Path(folder)
    if not str(folder):
        raise BadInput("the folder's name is empty", where="compile", right="a folder to write to")
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".writable").touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise BadInput(
            f"cannot be written ({error.strerror})", where=str(path), right="a folder to write to"
        ) from error
    return path.absolute()


def launched(ops: Sequence[str] = ()) -> list[Question]:
    """What a run of the kernels area launches of ours on a GPU: (operation, shape), each once, on every GPU by name."""
    shapes: dict[str, Question] = {}
    for case in cases.load().values():
        if case.area != "kernels" or case.bench not in ("timed", "checked") or OURS not in case.impls:
            continue
        for op in (subject.removeprefix("kernels.") for subject in case.subjects):
            for shape in case.shape["shapes"] if case.bench == "checked" else [case.dimensions]:
                if not ops or op in ops:
                    shapes.setdefault(f"{op} {sorted(shape.items())}", {"op": op, "shape": dict(shape), "wanted": []})
    names = sorted({row.device for op in catalog.MODULES for row in tables.rows(op)} | {tables.HOPPER})
    return [{**question, "gpu": name} for name in names for question in shapes.values()]


def told(question: Question, why: str) -> str:
    """What could not be compiled, in a line."""
    shape = ", ".join(f"{name}={n}" for name, n in question["shape"].items())
    return f"{question['op']} at {shape}: {why}"
