"""Many runs: on a CPU side by side in child processes of one thread each, on a GPU one after another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from queue import SimpleQueue
from typing import Any

from v3bench.model_ref.errors import BadInput
from v3bench.suite.meter.child import Process
from v3bench.suite.train.plan import Plan
from v3bench.suite.train.trainer import Outcome

WORKER = "v3bench.suite.train.worker"
WIDTH = 2  # processes; more would share the caches of a small machine


def completed(plans: Sequence[Plan]) -> Iterator[tuple[Plan, Outcome]]:
    """Each plan with its outcome, as they end.

    Raises BadInput for a plan that cannot run, RuntimeError for one that breaks. Then, and when the reader goes away,
    the runs that have begun are given up.
    """
    if any(plan.device != "cpu" for plan in plans):
        from v3bench.suite.train.checkpoint import train

        for plan in plans:
            yield plan, train(plan)
        return
    free: SimpleQueue[Process] = SimpleQueue()
    busy: set[Process] = set()
    for child in children():
        free.put(child)

    def work(plan: Plan) -> Outcome:
        child = free.get()
        busy.add(child)
        try:
            return read(child.ask({"plan": plan.as_json()}), plan)
        finally:
            busy.discard(child)
            free.put(child)

    with ThreadPoolExecutor(len(children())) as pool:
        futures = {pool.submit(work, plan): plan for plan in plans}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            for child in tuple(busy):
                if child.child is not None:
                    child.child.kill()  # its next run begins another process
            raise


def read(answer: dict[str, Any], plan: Plan) -> Outcome:
    """The outcome that a child answers. Raises BadInput and RuntimeError."""
    if "refused" in answer:
        raise BadInput(**answer["refused"])
    if "error" in answer:
        raise RuntimeError(f"the run of {plan.recipe} broke: {answer['error']}")
    return Outcome(**answer | {"losses": tuple(answer["losses"])})


@cache
def children() -> tuple[Process, ...]:
    """The child processes of this process; they end with it, as their input does."""
    return tuple(Process(WORKER, OMP_NUM_THREADS="1") for _ in range(min(WIDTH, os.cpu_count() or 1)))
