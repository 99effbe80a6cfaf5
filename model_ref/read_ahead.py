"""Files read ahead of whoever uses them, unit by unit, by a thread, into buffers that are used again.

The system is told a few units before what will be read, so that the disk always has something to do. The units lie in
memory of our own: no page cache has to hold them, and a cold file that is memory-mapped comes in page fault by page
fault, at a third of the rate.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from v3bench.model_ref.checkpoint_parts import Slice
from v3bench.model_ref.errors import BadInput

CHUNK = 4 << 20  # bytes of one read
ALIGNED = 64  # bytes: where a slice may begin in a buffer
TOLD = 64 << 20  # bytes that the system is told of beyond what is being read

Unit = Sequence[Slice]


class Reader(AbstractContextManager["Reader"]):
    """``next(reader)`` gives the next unit; whoever takes it lets it go. Use as a context manager.

    At most ``ahead`` bytes of units are held, one unit at the least: units that are not let go block those behind.
    ``pinned``: in memory that a GPU copies from while the host goes on. ``keep``: what was read may stay in the page
    cache. Raises BadInput where a file cannot be read.
    """

    def __init__(
        self, units: Sequence[Unit], *, ahead: int, pinned: bool = False, keep: bool = True, threads: int = 2
    ) -> None:
        self.units, self.ahead, self.pinned, self.keep = units, ahead, pinned, keep
        self.turn = threading.Condition()
        self.ready: deque[Loaded] = deque()
        self.spare: list[tuple[Tensor, Any]] = []  # buffers, and what a GPU has to finish before they are used again
        self.held = self.read = 0  # bytes in units, and read so far
        self.failed: BaseException | None = None
        self.stopped = False
        self.files: dict[Path, int] = {}
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self.thread = threading.Thread(target=self.run, name="read ahead", daemon=True)
        self.thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.turn:
            self.stopped = True
            self.turn.notify_all()
        self.thread.join()
        self.pool.shutdown()
        for file in self.files.values():
            os.close(file)
        self.ready.clear()
        self.spare.clear()

    def __next__(self) -> Loaded:
        with self.turn:
            self.turn.wait_for(lambda: self.ready or self.failed)
            if not self.ready:
                assert self.failed is not None
                raise self.failed
            return self.ready.popleft()

    def release(self, buffer: Tensor) -> None:
        """Let a unit's buffer be used again."""
        copied = None
        if self.pinned:
            copied = torch.cuda.Event()
            copied.record()
        with self.turn:
            self.held -= len(buffer)
            self.spare.append((buffer, copied))
            self.turn.notify_all()

    def run(self) -> None:
        """The thread: read unit after unit while there is room."""
        try:
            told = Told(self.units, self.descriptor)
            for number, unit in enumerate(self.units):
                size = sum(map(room, unit))
                with self.turn:
                    while not self.stopped and self.held and self.held + size > self.ahead:
                        self.turn.wait()
                    if self.stopped:
                        return
                    self.held += size
                told.until(number)
                buffer = self.buffer(size)
                tensors = self.fill(unit, buffer)
                with self.turn:
                    self.ready.append(Loaded(self, tensors, buffer))
                    self.turn.notify_all()
            raise StopIteration
        except BaseException as error:
            with self.turn:
                self.failed = error
                self.turn.notify_all()

    def buffer(self, size: int) -> Tensor:
        """Memory for one unit, uint8 (size): of one that was used, if it fits."""
        with self.turn:
            fitting = [n for n, (one, _) in enumerate(self.spare) if len(one) == size]
            if not fitting:
                while self.spare and self.held + sum(len(one) for one, _ in self.spare) > self.ahead:
                    self.spare.pop(0)
            one, copied = self.spare.pop(fitting[0]) if fitting else (None, None)
        if one is None:
            return torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned)
        if copied is not None:
            copied.synchronize()
        return one

    def fill(self, unit: Unit, buffer: Tensor) -> dict[Slice, Tensor]:
        """Read a unit's slices into the buffer."""
        tensors, jobs, at = {}, [], 0
        memory = buffer.numpy().data
        for one in unit:
            tensors[one] = one.tensor(buffer[at : at + one.size])
            file = self.descriptor(one.file)
            for start in range(0, one.size, CHUNK):
                end = min(start + CHUNK, one.size)
                jobs.append((one, file, one.begin + start, memory[at + start : at + end]))
            at += room(one)
        for count in self.pool.map(self.chunk, jobs):
            self.read += count
        return tensors

    def chunk(self, job: tuple[Slice, int, int, memoryview]) -> int:
        """Read one piece of a slice; its bytes."""
        one, file, begin, memory = job
        done = 0
        try:
            while done < len(memory):
                count = os.preadv(file, [memory[done:]], begin + done)
                if not count:
                    raise BadInput("is cut off", where=str(one.file), right="the whole file, downloaded again")
                done += count
            if not self.keep:
                advise(file, begin, len(memory), "POSIX_FADV_DONTNEED")
        except OSError as error:
            raise BadInput(f"cannot be read ({error.strerror})", where=str(one.file)) from error
        return done

    def descriptor(self, path: Path) -> int:
        """The open file. Raises BadInput."""
        if path not in self.files:
            try:
                self.files[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise BadInput(f"cannot be read ({error.strerror})", where=str(path)) from error
        return self.files[path]


class Loaded(AbstractContextManager[Mapping[Slice, Tensor]]):
    """The tensors of one unit, while this is entered."""

    def __init__(self, reader: Reader, tensors: Mapping[Slice, Tensor], buffer: Tensor) -> None:
        self.reader, self.tensors, self.buffer = reader, tensors, buffer

    def __enter__(self) -> Mapping[Slice, Tensor]:
        return self.tensors

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reader.release(self.buffer)


class Told:
    """Tells the system which bytes will be read, TOLD of them beyond the unit that is."""

    def __init__(self, units: Sequence[Unit], descriptor: Callable[[Path], int]) -> None:
        self.descriptor = descriptor
        self.coming = iter([(number, one) for number, unit in enumerate(units) for one in unit])
        self.beyond: deque[tuple[int, int]] = deque()  # unit and bytes of what was told
        self.bytes = 0

    def until(self, number: int) -> None:
        """Called before a unit is read."""
        while self.beyond and self.beyond[0][0] <= number:
            self.bytes -= self.beyond.popleft()[1]
        while self.bytes < TOLD:
            coming = next(self.coming, None)
            if coming is None:
                return
            unit, one = coming
            advise(self.descriptor(one.file), one.begin, one.size, "POSIX_FADV_WILLNEED")
            if unit > number:
                self.beyond.append((unit, one.size))
                self.bytes += one.size


def advise(file: int, begin: int, size: int, how: str) -> None:
    """Tell the system about bytes of an open file, where it can be told."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, begin, size, getattr(os, how))


def room(one: Slice) -> int:
    """Bytes that a slice takes in a buffer."""
    return -(-one.size // ALIGNED) * ALIGNED
