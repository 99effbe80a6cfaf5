"""A child process that compiles launches for sm_90: one job a line in, one answer a line out, both JSON.

    {"op": ..., "shape": {...}, "config": {...}}  ->  {"launches": [{...}]} or {"error": "..."}

Without a configuration ("config": null) the shape is a form of kernels/forms.py, which its launcher chooses one for.

Started by compiled.py: the interpreter cannot share a process with the compiler, and a compiler that aborts takes its
process along.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import cache
from typing import Any

from v3bench.kernels import aot, catalog, forms
from v3bench.kernels.launch import Launch


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """What became of a job."""
    try:
        op, shape, config = job["op"], job["shape"], job["config"]
        launches = forms.launches(op, shape) if config is None else catalog.module(op).example(op, shape, config)
        return {"launches": [{**compiled(launch), **told(launch)} for launch in launches]}
    except Exception as error:  # whatever the compiler raises is the answer
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def compiled(launch: Launch) -> dict[str, Any]:
    """The compiler's account of a launch; kernels that differ in sizes alone are compiled once."""
    found = of(Key(launch))
    return {**asdict(found), "spills": found.spills, "ctas_per_sm": found.ctas_per_sm}


def told(launch: Launch) -> dict[str, int]:
    """What the launch itself says, whatever it is compiled to."""
    return {"programs": launch.programs, "l2_bytes": launch.l2_bytes, "passes": launch.passes}


class Key:
    """A launch, equal to another whose compiled kernel is the same."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        constexprs = {parameter.name for parameter in launch.kernel.params if parameter.is_constexpr}
        kinds = [(name, value if name in constexprs else aot.specialise(value)) for name, value in launch.args.items()]
        self.identity = (launch.kernel.fn.__qualname__, launch.kernel.fn.__module__, repr(kinds), repr(launch.options))

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.identity == other.identity


@cache
def of(key: Key) -> aot.Compiled:
    """The compiled launch."""
    return aot.compile(key.launch)


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
