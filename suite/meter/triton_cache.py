"""Triton's cache as a folder that can be carried to another place or machine.

Triton keeps a folder for each kernel, and in it a file that lists the others by their absolute paths: where those are
gone, the kernel is compiled again without a word. ``settle`` writes such lists anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from v3bench.model_ref.errors import BadInput
from v3bench.suite.run_folder import write_whole

VARIABLE = "TRITON_CACHE_DIR"
LISTS = "*/__grp__*.json"


def settle(folder: Path) -> tuple[int, int]:
    """(Kernels in the cache, how many of them were made elsewhere and are found from now on). Raises BadInput."""
    kernels = moved = 0
    for path in sorted(folder.glob(LISTS)):
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))["child_paths"]
            here = {name: str(path.parent.absolute() / name) for name in listed}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # Triton makes it anew
        if not all(Path(own).is_file() for own in here.values()):
            continue
        kernels += 1
        if here == listed:
            continue
        try:
            write_whole(path, json.dumps({"child_paths": here}))
        except OSError as error:
            what = f"was made elsewhere, and cannot be written ({error.strerror})"
            raise BadInput(what, where=str(folder), right="a cache that may be written to") from error
        moved += 1
    return kernels, moved


def brought() -> list[str]:
    """What to say of the cache that the environment names, settled; nothing where it names none. Raises BadInput."""
    if not (name := os.environ.get(VARIABLE)):
        return []
    kernels, moved = settle(Path(name))
    return [f"{VARIABLE}={name}: {kernels} kernels" + (f", {moved} of them made elsewhere" if moved else "")]


def size(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
