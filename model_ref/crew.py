"""Threads that work on several things at a time, each computing alone.

Torch's own threads share one operation, and where it is small, or the machine busy, they wait for each other more than
they compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")


class Crew(AbstractContextManager["Crew"]):
    """So many threads; one is the caller's own. Use as a context manager."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="crew") if threads > 1 else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """What ``work`` makes of each item, in their order; an item is taken when a thread is about to be free."""
        if self.pool is None:
            yield from map(work, items)
            return
        waiting: deque[Future[Made]] = deque()
        with one_thread():
            for item in items:
                waiting.append(self.pool.submit(without_gradients, work, item))
                if len(waiting) > self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def without_gradients(work: Callable[[Item], Made], item: Item) -> Made:
    """A thread begins with gradients on, whatever its caller has said."""
    with torch.no_grad():
        return work(item)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch's products, and for those of threads that begin meanwhile; afterwards as many as before.

    A small model's tensors are so small that a second thread makes a step slower, on a busy machine four times.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
