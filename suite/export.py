"""Export of a checkpoint to the layout of DeepSeek-V3's release: FP8 weights with block scales, the rest as it is.

The folder is written beside its place, under a hidden name, one file after another, and is renamed once it is whole.
An export cut short leaves that hidden folder: the same command goes on after its last whole file.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from v3bench.model_ref.checkpoint_export import BLOCK, Matrix, described, quantize
from v3bench.model_ref.checkpoint_files import FP8, INDEX, PICKLES, finite
from v3bench.model_ref.checkpoint_table import SCALE
from v3bench.model_ref.config import read_json
from v3bench.model_ref.errors import BadInput
from v3bench.suite.meter.progress import Reading
from v3bench.suite.released import Released, bands
from v3bench.suite.run_folder import write_whole
from v3bench.suite.tensor_file import BYTES, Entry, TensorFile, size_of
from v3bench.suite.whole_folder import begun, named, writing

CONFIG = "config.json"
WEIGHTS = (".safetensors", ".gguf", ".h5", ".msgpack", ".onnx", *PICKLES)


@dataclass(frozen=True)
class Export:
    """What was written."""

    folder: str
    fp8: int  # matrices
    kept: int  # tensors that stay as they were
    files: int  # of weights
    found: int  # of these, those that an export cut short had written
    size: int  # bytes of weights
    copied: list[str]  # other files
    left: list[str]  # of the source: folders, and weights in other formats

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """The account."""
        files = f"{self.files} files" + (f", {self.found} of them from an export cut short" if self.found else "")
        out = [f"{self.folder}: {self.fp8} matrices in FP8, {self.kept} tensors as they were; {files}, "
               f"{self.size / 1e9:.3f} GB"]  # fmt: skip
        out += [f"copied: {', '.join(self.copied)}"] if self.copied else []
        return out + ([f"left out: {', '.join(self.left)}"] if self.left else [])


@dataclass(frozen=True)
class Task:
    """One tensor to write: a matrix in FP8 with its scales, or a stored tensor as it is."""

    name: str
    matrix: Matrix | None

    def entries(self, source: Released) -> list[Entry]:
        """What it is in the file."""
        if self.matrix is None:
            stored = source.files.stored[self.name]
            if stored.dtype not in BYTES:
                raise BadInput(f"has dtype {stored.dtype}", where=stored.where, right=f"one of {', '.join(BYTES)}")
            return [Entry(self.name, stored.dtype, stored.shape)]
        grid = tuple(-(-size // side) for size, side in zip(self.matrix.shape, BLOCK, strict=True))
        return [Entry(self.name, FP8, self.matrix.shape), Entry(self.name + SCALE, "F32", grid)]


def write(folder: str | Path, target: str | Path, say: Callable[[str], None] = lambda line: None) -> Export:
    """Export the checkpoint in ``folder`` to ``target``. Raises BadInput, naming file and tensor.

    For a folder that is damaged, in FP8 already or not finite, and a target that is there and not empty.
    """
    place = Path(target).absolute()
    with writing(place, str(target)), Released(folder) as source:
        if source.coded:
            stored = source.files.stored[source.coded[0].stored]
            raise BadInput("is FP8 already", where=stored.where, right="BF16, F16 or F32 weights to export")
        plan = planned(source)
        with begun(place.with_name(f".{place.name}.partial"), origin(source)) as partial:
            check_room(partial, plan, source)
            found = write_weights(partial, plan, source, say)
            others, left = copy_others(source.folder, partial)
            finish(partial, place, plan, source)
    tasks = [task for file in plan.values() for task in file]
    fp8 = sum(task.matrix is not None for task in tasks)
    size = sum(size_of(task.entries(source)) for task in tasks)
    return Export(str(target), fp8, len(tasks) - fp8, len(plan), found, size, others, left)


def planned(source: Released) -> dict[str, list[Task]]:
    """File name -> what is written to it: what the source's file of that name holds."""
    stacks: dict[str, list[Matrix]] = {}
    for matrix in source.matrices.values():
        if matrix.in_fp8:
            stacks.setdefault(matrix.stored, []).append(matrix)
    plan: dict[str, list[Task]] = {}
    for stored in source.files:
        tasks = [Task(matrix.name, matrix) for matrix in stacks.get(stored.name, ())]
        plan.setdefault(stored.file.name, []).extend(tasks or [Task(stored.name, None)])
    return plan


def origin(source: Released) -> dict[str, Any]:
    """What tells whether files of an export cut short are of these weights."""
    paths = sorted({stored.file for stored in source.files} | {source.folder / CONFIG})
    facts = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    return {"folder": str(source.folder.resolve()), "files": facts}


def check_room(partial: Path, plan: dict[str, list[Task]], source: Released) -> None:
    """Raise OSError where the disk has no room for what is still to be written."""
    missing = (task for file, tasks in plan.items() if not (partial / file).exists() for task in tasks)
    wanted = sum(size_of(task.entries(source)) for task in missing)
    free = shutil.disk_usage(partial).free
    if wanted > free:
        raise OSError(errno.ENOSPC, f"{wanted / 1e9:.3f} GB are needed, {free / 1e9:.3f} GB are free")


def write_weights(partial: Path, plan: dict[str, list[Task]], source: Released, say: Callable[[str], None]) -> int:
    """Write every file that is not there; returns how many were."""
    missing = {file: tasks for file, tasks in plan.items() if not (partial / file).exists()}
    entries = {file: [entry for task in tasks for entry in task.entries(source)] for file, tasks in missing.items()}
    progress = Reading("export", sum(entry.values for file in entries.values() for entry in file), say)
    for file, tasks in missing.items():
        with TensorFile(partial / file, entries[file]) as out:
            for task in tasks:
                write_task(out, task, source)
                progress(sum(entry.values for entry in task.entries(source)))
    return len(plan) - len(missing)


def write_task(out: TensorFile, task: Task, source: Released) -> None:
    """Write one tensor, a band at a time where it is converted. Raises BadInput where its values are not finite."""
    if task.matrix is None:
        tensor = source.files.read(task.name)
        if tensor.is_floating_point() and tensor.numel():
            finite(tensor, source.files.stored[task.name])
        out.put(task.name, tensor)
        return
    for first, last in bands(task.matrix.shape, BLOCK[0]):
        codes, scales = quantize(checked(source, task.matrix, first, last))
        out.put(task.name, codes)
        out.put(task.name + SCALE, scales)


def checked(source: Released, matrix: Matrix, first: int, last: int) -> Tensor:
    """Rows of a matrix, float32. Raises BadInput where they are not finite."""
    return finite(source.values(matrix, first, last), source.files.stored[matrix.stored])


def copy_others(folder: Path, partial: Path) -> tuple[list[str], list[str]]:
    """Copy tokenizer and other small files; returns the names of those, and of what is left out."""
    copied, left = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in (CONFIG, INDEX) or path.suffix == ".safetensors":
            continue
        if not path.is_file() or path.suffix in WEIGHTS or path.name.endswith(".index.json"):
            left.append(path.name)
            continue
        shutil.copyfile(path, partial / path.name)
        copied.append(path.name)
    return copied, left


def finish(partial: Path, place: Path, plan: dict[str, list[Task]], source: Released) -> None:
    """Write the index and config.json, which make the folder whole, and give it its name. Raises OSError."""
    entries = {file: [entry for task in tasks for entry in task.entries(source)] for file, tasks in plan.items()}
    names = {entry.name: file for file, some in entries.items() for entry in some}
    size = sum(size_of(some) for some in entries.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(names.items()))}
    write_whole(partial / INDEX, json.dumps(index, indent=2) + "\n")
    config = read_json(source.folder / CONFIG) | {"quantization_config": described()}
    write_whole(partial / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    named(partial, place)
