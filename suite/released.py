"""A released folder, opened and judged by its headers: its weight matrices, read a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from torch import Tensor
from v3bench.baselines.checkpoint import DENSE
from v3bench.model_ref.checkpoint import DEEPSEEK
from v3bench.model_ref.checkpoint_export import Matrix, matrices
from v3bench.model_ref.checkpoint_files import FP8, Files
from v3bench.model_ref.checkpoint_table import IGNORED, SCALE, has_mtp, judged
from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput
from v3bench.suite import models

BAND = 2**21  # values that are worked on at a time: 8 MB as float32


class Released(AbstractContextManager["Released"]):
    """A DeepSeek, Llama or Qwen folder in BF16, F16, F32 or FP8. Use as a context manager.

    Raises BadInput on opening, as ``load_pretrained`` does, for whatever is missing, left over, or of a wrong shape or
    dtype. No value is read; what is read is memory-mapped, so that any size fits into little memory.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            right = "a folder with config.json and safetensors files"
            raise BadInput("is no folder", where=str(folder), right=right)
        self.name, self.config = models.load(str(folder))
        self.files = Files(folder)
        try:
            table = DEEPSEEK if isinstance(self.config, Config) else DENSE
            model = models.build(self.config, device="meta", mtp=has_mtp(self.config, self.files))
            pieces, _ = judged(model, self.config, self.files, table)
            self.matrices = {matrix.name: matrix for matrix in matrices(pieces, table)}
            for matrix in self.coded:
                self.check_blocks(matrix)
        except BaseException:
            self.files.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.files.__exit__(kind, error, trace)

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of an FP8 weight's block."""
        assert self.config.quantization_block is not None
        return self.config.quantization_block

    @property
    def coded(self) -> list[Matrix]:
        """The matrices that are stored in FP8, file by file."""
        return self.in_order(matrix for matrix in self.matrices.values() if self.is_coded(matrix))

    @property
    def kept(self) -> list[str]:
        """What is not FP8, nor a scale, nor only computed from config.json: matrices by their own names, and the rest.

        File by file.
        """
        apart = {matrix.stored for matrix in self.matrices.values()}
        apart |= {matrix.stored + SCALE for matrix in self.coded}
        rest = (stored for stored in self.files if stored.name not in apart and not IGNORED.fullmatch(stored.name))
        names = [(stored.file, stored.name) for stored in rest]
        plain = (matrix for matrix in self.matrices.values() if not self.is_coded(matrix))
        names += [(self.files.stored[matrix.stored].file, matrix.name) for matrix in plain]
        return [name for _, name in sorted(names)]

    def read(self, name: str) -> Tensor:
        """One of ``kept``, as stored."""
        matrix = self.matrices.get(name)
        return self.files.read(name) if matrix is None else matrix.rows(self.files.read(matrix.stored))

    def in_order(self, some: Iterable[Matrix]) -> list[Matrix]:
        """Matrices by file, so that each file is read once and its pages are not wanted again."""
        return sorted(some, key=lambda m: (self.files.stored[m.stored].file, m.stored, m.expert or 0, m.start))

    def is_coded(self, matrix: Matrix) -> bool:
        """Whether it is stored in FP8."""
        return self.files.stored[matrix.stored].dtype == FP8

    def check_blocks(self, matrix: Matrix) -> None:
        """Raise BadInput where one block holds values of two matrices."""
        if matrix.start % self.block[0]:
            what = f"is FP8, and {matrix.name} begins within a block, at row {matrix.start}"
            right = "one tensor for each expert's matrix, as released"
            raise BadInput(what, where=self.files.stored[matrix.stored].where, right=right)

    def values(self, matrix: Matrix, first: int, last: int) -> Tensor:
        """Rows first to last of a matrix that is not FP8, float32."""
        return matrix.rows(self.files.read(matrix.stored), first, last).float()

    def codes(self, matrix: Matrix, first: int, last: int) -> Tensor:
        """Rows first to last of a matrix in FP8, as stored."""
        return matrix.rows(self.files.read(matrix.stored), first, last)

    def scales(self, matrix: Matrix, first: int, last: int) -> Tensor:
        """The block scales of rows first to last, (blocks, blocks of columns) float32; ``first`` begins a block."""
        scales, height = self.files.read(matrix.stored + SCALE), self.block[0]
        scales = scales if matrix.expert is None else scales[matrix.expert]
        return scales[(matrix.start + first) // height : -(-(matrix.start + last) // height)].float()


def bands(shape: tuple[int, int], height: int) -> list[tuple[int, int]]:
    """(first, last) of bands of rows, whole blocks of ``height`` each but the last, about BAND values."""
    rows, columns = shape
    step = max(BAND // max(columns, 1) // height, 1) * height
    return [(first, min(first + step, rows)) for first in range(0, rows, step)]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two stored tensors hold the same values in the same shape, whatever their dtypes; NaN is NaN."""
    if a.shape != b.shape:
        return False
    a, b = a.reshape(-1), b.reshape(-1)
    for at in range(0, len(a), BAND):
        x, y = (side[at : at + BAND].float() for side in (a, b))
        if not bool(((x == y) | (x.isnan() & y.isnan())).all()):
            return False
    return True
