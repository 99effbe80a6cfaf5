"""A child process that trains: a plan a line in, an outcome a line out, JSON. It ends when its input does.

{"plan": "..."}  ->  {"losses": [...], "held_out": ..., ...}, {"refused": {"what": "...", ...}} or {"error": "..."}
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any


def listen(asked: SimpleQueue[str]) -> None:
    """Hand on what the input says. When it ends, whoever asked is gone, and so is the reason to go on training."""
    for line in sys.stdin:
        asked.put(line)
    os._exit(0)


def answer(line: str) -> dict[str, Any]:
    """The outcome of the plan that the line holds."""
    from v3bench.model_ref.errors import BadInput
    from v3bench.suite.train.checkpoint import train
    from v3bench.suite.train.plan import Plan

    try:
        return train(Plan.from_json(json.loads(line)["plan"]))._asdict()
    except BadInput as error:
        return {"refused": {"what": error.what, "where": error.where, "right": error.right}}
    except Exception as error:  # whatever a recipe raises is the answer
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def main() -> None:
    """Answer each line of standard input."""
    import torch

    torch.set_num_threads(1)  # two processes of one thread train faster than one of two
    asked: SimpleQueue[str] = SimpleQueue()
    Thread(target=listen, args=(asked,), daemon=True).start()
    while True:
        sys.stdout.write(json.dumps(answer(asked.get())) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, BrokenPipeError):
        main()
