"""The states of a streamed pass on disk: after some steps, whole or not at all; a kill at any moment leaves the last.

The states are a safetensors file of their own; the account beside it, written after it, says which one counts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from v3bench.model_ref.config import read_json
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.stream import Pass
from v3bench.model_ref.stream_weights import Source
from v3bench.suite.run_folder import write_whole
from v3bench.suite.tensor_file import Entry, TensorFile

ACCOUNT = "states.json"
EVERY = 30.0  # seconds between two saves, at least
SHARE = 10  # a save may take so small a part of the time: one in so many
WORDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}


class Saved:
    """The states in one folder, or, without a folder, nowhere."""

    def __init__(
        self, folder: Path | None, source: Source, ids: Tensor, dtype: torch.dtype, say: Callable[[str], None]
    ) -> None:
        self.folder, self.say, self.file = folder, say, ""
        self.about = identity(source, ids, dtype)
        self.last, self.took = time.perf_counter(), 0.0

    def found(self) -> tuple[int, dict[str, Tensor] | None, float]:
        """(steps done, states, seconds spent) to go on from; (0, None, 0.0) where nothing fits. Raises BadInput."""
        if self.folder is None or not (self.folder / ACCOUNT).exists():
            return 0, None, 0.0
        account = read_json(self.folder / ACCOUNT)
        self.file = str(account.get("file", ""))
        if account.get("about") != self.about:
            self.say(f"{self.folder}: states of other weights or another text; begun anew")
            return 0, None, 0.0
        path = self.folder / self.file
        try:
            with safe_open(path, framework="pt") as file:
                states = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, RuntimeError) as error:
            right = f"the states of a pass, or no {ACCOUNT} beside it"
            raise BadInput(f"cannot be read ({error})", where=str(path), right=right) from error
        return account["done"], states, account["seconds"]

    def after(self, one: Pass, seconds: float) -> float:
        """Save behind a step, unless it is too soon; seconds that took. A disk that takes no more is said, once."""
        began = time.perf_counter()
        if self.folder is None or began - self.last < max(EVERY, SHARE * self.took):
            return 0.0
        try:
            self.write(one, seconds)
        except OSError as error:
            kept = f"a kill goes back to {self.file}" if self.file else "a kill loses all"
            self.say(f"{self.folder}: states cannot be saved ({error.strerror}); goes on without: {kept}")
            self.folder = None
        self.last = time.perf_counter()
        self.took = self.last - began
        return self.took

    def write(self, one: Pass, seconds: float) -> None:
        """Save: the states, then the account; then drop those before. Raises OSError."""
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        states = one.states()
        path = self.folder / f"states-{one.done:03}.safetensors"
        entries = [Entry(name, WORDS[state.dtype], tuple(state.shape)) for name, state in states.items()]
        with TensorFile(path, entries) as out:
            for name, state in states.items():
                for window in state:
                    out.put(name, window.cpu())
        account: dict[str, Any] = {"done": one.done, "step": one.source.steps[one.done - 1], "seconds": seconds}
        write_whole(self.folder / ACCOUNT, json.dumps(account | {"file": path.name, "about": self.about}) + "\n")
        self.file = path.name
        self.drop()

    def drop(self) -> None:
        """Remove states that no account names, those that a kill left half written too."""
        assert self.folder is not None
        for path in self.folder.glob("*states-*"):
            if path.name != self.file:
                with suppress(OSError):
                    path.unlink()

    def clear(self) -> None:
        """Remove all: the pass is done."""
        if self.folder is None or not self.folder.is_dir():
            return
        self.file = ""
        with suppress(OSError):
            (self.folder / ACCOUNT).unlink(missing_ok=True)
            self.drop()
            self.folder.rmdir()


def begin(run: Path, resume: bool) -> Path:
    """The folder for states in a run folder; what an earlier run left there is dropped unless it is gone on with."""
    folder = run / "streamed"
    if folder.is_dir() and not resume:
        shutil.rmtree(folder)
    return folder


def identity(source: Source, ids: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """What states belong to: these weights, this text, this arithmetic."""
    paths = sorted({stored.file for stored in source.files} | {source.files.folder / "config.json"})
    raw = ids.contiguous().numpy().tobytes()
    return {
        "files": {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths},
        "text": [list(ids.shape), hashlib.sha256(raw).hexdigest()],
        "dtype": WORDS[dtype],
    }
