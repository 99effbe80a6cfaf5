"""A safetensors file written tensor by tensor, in any order and in parts, so that it never has to fit into memory.

The format (huggingface/safetensors, README): the header's length, 8 bytes, little endian; the header, JSON, a name ->
dtype, shape and [begin, end) of its bytes behind the header, without holes; the bytes.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

# Bytes of a value by safetensors' word.
BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """How many it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many it takes."""
        return self.values * BYTES[self.dtype]


class TensorFile(AbstractContextManager["TensorFile"]):
    """A file of these entries, under a hidden name until all of it is on disk. Raises OSError.

    Use as a context manager, which ends with the whole file under its name or, when it raises, without any.
    """

    def __init__(self, path: Path, entries: Sequence[Entry]) -> None:
        self.path, self.beside = path, path.with_name(f".{path.name}")
        # The widest first, by which each begins at a multiple of its own width.
        ordered = sorted(entries, key=lambda entry: (-BYTES[entry.dtype], entry.name))
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # what transformers asks for
        self.at: dict[str, int] = {}
        self.left = {entry.name: entry.bytes for entry in entries}
        end = 0
        for entry in ordered:
            begin, end = end, end + entry.bytes
            header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [begin, end]}
            self.at[entry.name] = begin
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.at = {name: begin + 8 + len(text) for name, begin in self.at.items()}
        self.file = self.beside.open("wb")
        self.file.write(struct.pack("<Q", len(text)) + text)

    def put(self, name: str, values: Tensor) -> None:
        """Write the next values of a tensor, in the dtype of its entry."""
        raw = values.contiguous().reshape(-1).view(torch.uint8).numpy()
        if raw.nbytes > self.left[name]:
            raise ValueError(f"{name} has {raw.nbytes - self.left[name]} bytes too many")
        self.file.seek(self.at[name])
        self.file.write(raw.data)
        self.at[name] += raw.nbytes
        self.left[name] -= raw.nbytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self.file:
                if kind is None:
                    if lacking := [name for name, left in self.left.items() if left]:
                        raise ValueError(f"{lacking[0]} is not whole")
                    self.file.flush()
                    os.fsync(self.file.fileno())
            if kind is None:
                self.beside.replace(self.path)
        finally:
            with suppress(FileNotFoundError):
                self.beside.unlink()


def size_of(entries: Iterable[Entry]) -> int:
    """Bytes of these tensors."""
    return sum(entry.bytes for entry in entries)
