"""A child process that answers questions: a line of JSON in, a line of JSON out; whatever ends it is an answer, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

Child = TypeVar("Child", bound="Process")
Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Process:
    """One child process, in which Triton compiles; restarted when a question ends it."""

    def __init__(self, module: str, triton: Path | None = None, **environment: str) -> None:
        """``module`` is what it runs; ``triton``: a folder with another Triton than the installed one."""
        self.module = module
        kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        self.environment = {**kept, **environment}
        if triton is not None:
            paths = [str(triton), *filter(None, [self.environment.get("PYTHONPATH")])]
            self.environment["PYTHONPATH"] = os.pathsep.join(paths)
        self.child: subprocess.Popen[str] | None = None

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer; {"error": why} where there is none."""
        if self.child is None:
            # -P: folders of the working directory are no packages, whatever they are called.
            pipe = subprocess.PIPE
            self.child = subprocess.Popen(
                [sys.executable, "-P", "-m", self.module],
                stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=self.environment,
            )  # fmt: skip
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.write(json.dumps(question) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"the compiler ended its process with status {self.close()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> int | None:
        """End the child process; its status, None where there is none."""
        if self.child is None:
            return None
        with suppress(BrokenPipeError):
            self.child.communicate()
        child, self.child = self.child, None
        return child.returncode


def share(
    children: Sequence[Child],
    questions: Sequence[Question],
    ask: Callable[[Child, Question], Answer],
    done: Callable[[Question, Answer], None] = lambda question, answer: None,
) -> Iterator[Answer]:
    """The answer to every question, in order, by whichever child is free; ``done`` hears of each as it comes."""
    free: SimpleQueue[Child] = SimpleQueue()
    for child in children:
        free.put(child)

    def work(question: Question) -> Answer:
        child = free.get()
        try:
            answer = ask(child, question)
        finally:
            free.put(child)
        done(question, answer)
        return answer

    with ThreadPoolExecutor(len(children)) as pool:
        yield from pool.map(work, questions)


@contextmanager
def closing(children: Sequence[Child]) -> Iterator[Sequence[Child]]:
    """The children, closed at the end."""
    try:
        yield children
    finally:
        for child in children:
            child.close()
