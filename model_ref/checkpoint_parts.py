"""Where the tensors of a checkpoint lie in their files, so that rows of one can be read alone.

Slice   rows of a stored tensor, as they lie in its file
Part    rows of a weight: its values and, where they are FP8, the block scales of exactly these rows
Parts   the parts of a folder
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from v3bench.model_ref.checkpoint_files import FP8, Files, Stored
from v3bench.model_ref.checkpoint_table import SCALE
from v3bench.model_ref.config import ModelConfig
from v3bench.model_ref.errors import BadInput

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, FP8: torch.float8_e4m3fn}


@dataclass(frozen=True)
class Slice:
    """Bytes from ``begin`` on of a file, one tensor of ``shape``."""

    file: Path
    begin: int
    dtype: str  # safetensors' word
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.begin + self.size

    def tensor(self, raw: Tensor) -> Tensor:
        """The bytes, uint8 (size), as what they are."""
        return raw.view(DTYPES[self.dtype]).view(self.shape)


@dataclass(frozen=True)
class Part:
    """Rows of a weight as stored."""

    stored: Stored
    values: Slice
    scales: Slice | None  # of FP8 values

    @property
    def slices(self) -> tuple[Slice, ...]:
        """What is to be read."""
        return (self.values,) if self.scales is None else (self.values, self.scales)


class Parts:
    """The parts of a folder that has been judged: its scales are there and fit. Raises BadInput on opening."""

    def __init__(self, files: Files, config: ModelConfig) -> None:
        self.files, self.config = files, config
        self.begins: dict[str, int] = {}
        for path in sorted({stored.file for stored in files}):
            self.begins |= beginnings(path)

    def whole(self, name: str) -> Part:
        """A whole tensor."""
        return self.part(name, (), *self.files.stored[name].shape[:1] or (1,))

    def expert(self, name: str, e: int) -> Part:
        """One matrix of a stack (E, rows, columns)."""
        return self.part(name, (e,), self.files.stored[name].shape[1])

    def bands(self, name: str, values: int) -> list[tuple[int, int, Part]]:
        """(first row, one past the last, part) of a matrix in bands of about so many values, whole blocks each."""
        rows, columns = self.files.stored[name].shape
        step = max(values // columns // self.height, 1) * self.height
        edges = [(first, min(first + step, rows)) for first in range(0, rows, step)]
        return [(first, last, self.part(name, (), last, first)) for first, last in edges]

    @property
    def height(self) -> int:
        """Rows of a block of scales; 1 without blocks."""
        block = self.config.quantization_block
        return 1 if block is None else block[0]

    def part(self, name: str, at: tuple[int, ...], last: int, first: int = 0) -> Part:
        """Rows first to last, below the leading index ``at``; ``first`` begins a block."""
        stored = self.files.stored[name]
        scales = None
        if stored.dtype == FP8:
            rows = first // self.height, -(-last // self.height)
            scales = self.slice(self.files.stored[name + SCALE], at, *rows)
        return Part(stored, self.slice(stored, at, first, last), scales)

    def slice(self, stored: Stored, at: tuple[int, ...], first: int, last: int) -> Slice:
        """The bytes of these rows."""
        height, *rest = stored.shape[len(at) :] or (1,)
        row = math.prod(rest) * DTYPES[stored.dtype].itemsize
        before = (at[0] * height if at else 0) + first
        shape = (last - first, *rest) if stored.shape else ()
        return Slice(stored.file, self.begins[stored.name] + before * row, stored.dtype, shape)


def beginnings(path: Path) -> dict[str, int]:
    """Tensor name -> its first byte in a safetensors file, from the header. Raises BadInput."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        return {name: 8 + length + told["data_offsets"][0] for name, told in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        what, right = f"has no header that can be read ({error})", "the whole file, downloaded again"
        raise BadInput(what, where=str(path), right=right) from error
