"""Kernels checked without a GPU: under Triton's interpreter, in one child process for a whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any, NamedTuple

from v3bench.suite.trials.contest import Wrong

MOST = 1000  # more small shapes than any operation has
WORKER = "v3bench.suite.trials.interpret_worker"


class Interpreted(NamedTuple):
    """The worst error over what is allowed, of how many shapes, and the operation's precision."""

    error: float
    shapes: str
    precision: str


class Interpreter:
    """The child process; begun when first asked, and begun again when a kernel ends it."""

    def __init__(self) -> None:
        self.environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.child: subprocess.Popen[str] | None = None

    def __call__(self, op: str, impl: str, most: int = MOST) -> Interpreted:
        """An implementation on at most so many of the operation's small shapes. Raises Wrong."""
        if self.child is None:
            # -P: folders of the working directory are no packages, whatever they are called.
            self.child = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER], env=self.environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.write(json.dumps({"op": op, "impl": impl, "most": most}) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Wrong(f"ended the interpreter's process with status {self.close()}")
        answer: dict[str, Any] = json.loads(line)
        if "wrong" in answer:
            raise Wrong(answer["wrong"])
        shapes = f"{answer['shapes']} of {answer['of']} small shapes"
        return Interpreted(answer["error"], shapes, answer["precision"])

    def close(self) -> int:
        """End the child process; its status."""
        child, self.child = self.child, None
        if child is None:
            return 0
        child.communicate()  # its input ends, and so does it
        return child.returncode


@cache
def interpreter() -> Interpreter:
    """The one of this process; its child ends with it, as its input does."""
    return Interpreter()
