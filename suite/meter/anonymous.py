"""Anonymous memory of this process: what no file stands behind, so that the system cannot take it back. Linux."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from v3bench.suite.meter.allocation import trim

EVERY = 0.005  # seconds between two looks


def anonymous() -> int:
    """Bytes that are in main memory now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not say how much anonymous memory a process has")


class Peak(AbstractContextManager["Peak"]):
    """The largest growth of anonymous memory while this is entered, seen by a thread that looks every EVERY seconds."""

    def __init__(self) -> None:
        trim()  # what was freed before would be used again unseen
        self.before = self.most = anonymous()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.watch, name="peak", daemon=True)
        self.thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self.thread.join()
        self.most = max(self.most, anonymous())

    def watch(self) -> None:
        """The thread."""
        while not self.stopped.wait(EVERY):
            self.most = max(self.most, anonymous())

    @property
    def grown(self) -> int:
        """Bytes above what there was before."""
        return self.most - self.before
