"""The system's page cache: how much of some files is in it, and files put out of it, to read them cold. Linux."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def evict(paths: Iterable[Path]) -> None:
    """Put files out of the cache; what is not on disk yet is written first. Raises OSError."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def cached(paths: Iterable[Path]) -> float:
    """The share of some files' bytes that the cache holds. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    there = pages = 0
    for path in paths:
        size = path.stat().st_size
        if not size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as memory:
            # Mapped for writing, privately, as only such memory shows its address; nothing of it is touched.
            held = np.zeros(-(-size // mmap.PAGESIZE), dtype=np.uint8)
            anchor = ctypes.c_char.from_buffer(memory)
            address = ctypes.c_void_p(ctypes.addressof(anchor))
            failed = libc.mincore(address, ctypes.c_size_t(size), held.ctypes.data_as(ctypes.c_void_p))
            del anchor
            if failed:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
            there += int((held & 1).sum())
            pages += len(held)
    return there / pages if pages else 0.0
