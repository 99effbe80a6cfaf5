"""The files of a released checkpoint: one safetensors file, or shards with an index, memory-mapped.

Opening reads the headers only, so a folder is judged whole before a single value is read. Pickle files
run code when they are read; they are refused, never opened.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from v3bench.model_ref.config import read_json
from v3bench.model_ref.config_json import shown
from v3bench.model_ref.errors import BadInput

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FP8 = "F8_E4M3"
READABLE = ("F32", "BF16", "F16", FP8)


@dataclass(frozen=True)
class Stored:
    """One tensor as its file's header describes it."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str  # safetensors' word: F32, BF16, F8_E4M3, ...

    @property
    def where(self) -> str:
        """File and tensor, for an error line."""
        return f"{self.file}, tensor {self.name!r}"


class Files(AbstractContextManager["Files"]):
    """All tensors of a checkpoint folder by name; ``read`` maps one. Use as a context manager.

    Raises BadInput on opening: no such folder, no safetensors file, pickle files only, a shard that is
    missing or cut off, an index that disagrees with its files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.stored: dict[str, Stored] = {}
        self._handles: dict[Path, Any] = {}
        self._open = ExitStack()
        try:
            index = self._index()
            for path in sorted(set(index.values())) if index is not None else [self._single()]:
                self._add(path)
            if index is not None:
                self._compare(index)
        except BaseException:
            self._open.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def __iter__(self) -> Iterator[Stored]:
        return iter(self.stored.values())

    def read(self, name: str) -> Tensor:
        """The tensor as stored, memory-mapped on the CPU: copy it before the files are closed. Raises BadInput."""
        stored = self.stored[name]
        try:
            tensor: Tensor = self._handles[stored.file].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise BadInput(f"cannot be read ({error})", where=stored.where) from error
        return tensor

    def _index(self) -> dict[str, Path] | None:
        """Tensor name -> file, from the index; None without one."""
        path = self.folder / INDEX
        if not self.folder.is_dir():
            right = "a folder with config.json and safetensors files"
            raise BadInput("is no folder", where=str(self.folder), right=right)
        if not path.exists():
            return None
        table = read_json(path).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise BadInput("has no weight_map", where=str(path), right='{"weight_map": {tensor: file, ...}}')
        for name, file in table.items():
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                right = "the name of a safetensors file in the same folder"
                raise BadInput(f"tensor {name!r} is in {shown(file)}", where=str(path), right=right)
            if not (self.folder / file).is_file():
                raise BadInput(f"names {file}, which is not there", where=str(path), right="every shard in the folder")
        if (self.folder / SINGLE).exists() and SINGLE not in table.values():
            raise BadInput(f"does not name the {SINGLE} beside it", where=str(path), right="one of the two")
        return {name: self.folder / file for name, file in table.items()}

    def _single(self) -> Path:
        """The one safetensors file of a folder without an index."""
        files = sorted(self.folder.glob("*.safetensors"))
        if self.folder / SINGLE in files:
            return self.folder / SINGLE
        if len(files) == 1 and "-of-" not in files[0].name:
            return files[0]
        if files:
            right = f"the index, or {SINGLE}"
            raise BadInput(f"holds {files[0].name} but no {INDEX}", where=str(self.folder), right=right)
        pickles = sorted(path.name for path in self.folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise BadInput(
                f"{pickles[0]} is a pickle file, which runs code when it is read, and is not opened",
                where=str(self.folder),
                right="safetensors files",
            )
        raise BadInput("holds no weights", where=str(self.folder), right=f"{SINGLE}, or shards with {INDEX}")

    def _add(self, path: Path) -> None:
        """Map one file and take its header in."""
        try:
            handle = self._open.enter_context(safe_open(path, framework="pt", device="cpu"))
            for name in handle.keys():  # noqa: SIM118 - not a dict
                part = handle.get_slice(name)
                self.stored[name] = Stored(name, path, tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError, RuntimeError) as error:
            what = f"is cut off or no safetensors file ({error})"
            raise BadInput(what, where=str(path), right="the whole file, downloaded again") from error
        self._handles[path] = handle

    def _compare(self, index: dict[str, Path]) -> None:
        """Refuse an index that disagrees with what the files hold."""
        for name, path in index.items():
            stored = self.stored.get(name)
            if stored is None or stored.file != path:
                what = f"says that {path.name} holds tensor {name!r}, which it does not"
                raise BadInput(what, where=str(self.folder / INDEX))
        for name, stored in self.stored.items():
            if name not in index:
                raise BadInput(f"is not named in {INDEX}", where=stored.where, right="an index of every tensor")


def finite(values: Tensor, stored: Stored) -> Tensor:
    """The values, refused when one is NaN or infinite. Raises BadInput naming file and tensor."""
    # One pass without a mask of its own: an extreme is NaN if any value is. isfinite() takes ten times as long.
    low, high = (extreme.item() for extreme in values.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        kind = "NaN" if math.isnan(low) else f"values that are infinite in {values.dtype}"
        raise BadInput(f"holds {kind}", where=stored.where, right="finite weights")
    return values
