"""Many runs: on a CPU side by side in child processes of one thread each, on a GPU one after another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from queue import SimpleQueue
from threading import Lock
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
    waiting, lock, ended = list(plans), Lock(), SimpleQueue[tuple[Plan, Outcome | Exception]]()
    busy: set[Process] = set()

    def next_of(place: int) -> Plan | None:
        """What a child does next: a run of its own seeds, whose beginning it may know; else anyone's."""
        with lock:
            own = [plan for plan in waiting if plan.init % len(children()) == place]
            plan = next(iter(own or waiting[::-1]), None)
            if plan is not None:
                waiting.remove(plan)
                busy.add(children()[place])  # under the lock: whoever gives up sees the run or prevents it
            return plan

    def work(place: int) -> None:
        child = children()[place]
        while (plan := next_of(place)) is not None:
            try:
                ended.put((plan, read(child.ask({"plan": plan.as_json()}), plan)))
            except Exception as error:  # raised again where it is waited for
                ended.put((plan, error))
            busy.discard(child)

    with ThreadPoolExecutor(len(children())) as pool:
        for place in range(len(children())):
            pool.submit(work, place)
        try:
            for _ in plans:
                plan, outcome = ended.get()
                if isinstance(outcome, Exception):
                    raise outcome
                yield plan, outcome
        except BaseException:
            with lock:
                waiting.clear()
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
