"""A folder that is whole or not there: written beside its place under a hidden name, and renamed when it is done.

writing   whether it can be written, and what is wrong with the disk, in one line
begun     the hidden folder, begun or gone on with
named     the end of it
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from v3bench.model_ref.config import read_json
from v3bench.model_ref.errors import BadInput
from v3bench.suite.run_folder import write_whole

SOURCE, LOCK = ".source.json", ".lock"


@contextmanager
def writing(place: Path, target: str) -> Iterator[None]:
    """Failures of the disk as one line. Raises BadInput for these, and unless nothing or an empty folder is there."""
    right = "a new folder, or an empty one"
    if not target:
        raise BadInput("the folder's name is empty", where="--export", right=right)
    try:
        if os.path.ismount(place):
            raise BadInput("is a mount point, which cannot be replaced", where=target, right="a folder in it")
        if place.is_symlink() or (place.exists() and not (place.is_dir() and not any(place.iterdir()))):
            raise BadInput("is there already", where=target, right=right)
        place.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        right = "a place to write to, on a disk with room"
        raise BadInput(f"cannot be written ({error.strerror})", where=target, right=right) from error


@contextmanager
def begun(partial: Path, now: dict[str, Any]) -> Iterator[Path]:
    """The hidden folder, made or found as an export of the same source left it, and locked. Raises BadInput.

    ``now`` is what tells the source. The folder goes when BadInput ends the export, and stays when it is cut short.
    """
    partial.mkdir(exist_ok=True)
    file = os.open(partial / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput("is being written by another export", where=str(partial), right="to wait") from error
        path = partial / SOURCE
        if not path.exists() and any(found.name != LOCK for found in partial.iterdir()):
            raise BadInput("is there, and no export has written it", where=str(partial), right="another --export")
        if path.exists() and read_json(path) != now:
            right = "that folder removed, or another --export"
            raise BadInput("holds an export of other weights, cut short", where=str(partial), right=right)
        write_whole(path, json.dumps(now))
        try:
            yield partial
        except BadInput:
            shutil.rmtree(partial)
            raise
    finally:
        os.close(file)


def named(partial: Path, place: Path) -> None:
    """Give the hidden folder its name. Raises OSError."""
    for name in (SOURCE, LOCK):
        (partial / name).unlink()
    partial.replace(place)
