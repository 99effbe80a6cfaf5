"""The child process of interpret.py: checks what its input names under Triton's interpreter, a line of JSON each.

TRITON_INTERPRET has to be set before the first kernel is imported, and then nothing can be compiled in the process.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Any


def checked(op: str, impl: str, most: int) -> dict[str, Any]:
    """{"error": worst over the first ``most`` small shapes, "shapes": how many, "of": how many there are, "precision"}.

    {"wrong": why} where the result does not count.
    """
    from v3bench.suite.trials import registry
    from v3bench.suite.trials.check import seeded
    from v3bench.suite.trials.contest import OURS, Wrong, examine

    trial, errors = registry.load(op), []
    for shape in trial.small[:most]:
        inputs = seeded(trial, shape, "cpu")
        want = trial.oracle(**inputs)
        try:
            error, result = examine(trial, OURS, inputs, want, small=True)
            if impl != OURS:
                error, _ = examine(trial, impl, inputs, want, result)
        except Wrong as wrong:
            return {"wrong": f"at {', '.join(f'{key}={n}' for key, n in shape.items())}: {wrong}"}
        errors.append(error or 0.0)  # ours and one's own are always held to one
    return {"error": max(errors), "shapes": len(errors), "of": len(trial.small), "precision": trial.precision}


def main() -> None:
    """Answer each line of standard input; what kernels print is nobody's answer."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import torch

    torch.set_num_threads(1)  # the tensors are too small for threads, which only wait for each other
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = checked(asked["op"], asked["impl"], asked["most"])
        except Exception as error:
            answer = {"wrong": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, BrokenPipeError):
        main()
