"""A child process that runs our launchers on a GPU that is not there, one shape a line in, one answer a line out, JSON.

    {"gpu": ..., "op": ..., "shape": {...}, "wanted": [key, ...]}
        ->  {"asked": [{"name": ..., "key": ..., "hash": ..., "hit": ...}], "compilers": {...}} or {"error": "..."}

Kernels whose key is wanted are compiled into TRITON_CACHE_DIR or found there; of the others it only tells. Started by
suite/compile.py: what stands in for the GPU stands in for the whole process.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import torch
from v3bench.kernels import standin
from v3bench.suite.trials import registry


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What the trial's inputs and our launcher ask the compiler for at a shape."""
    wanted = set(question["wanted"])
    try:
        trial = registry.load(question["op"])
        with standin.present(question["gpu"]), standin.compiling(wanted.__contains__) as asked:
            trial.ours(**trial.inputs(question["shape"], "cuda"))
        return {"asked": [asdict(one) for one in asked], "compilers": standin.versions()}
    except Exception as error:  # whatever the compiler raises is the answer
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
