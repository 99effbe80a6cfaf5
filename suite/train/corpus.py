"""What proxies train on: text that is on every machine, split by file, a byte a token, never gone through twice.

    stdlib      the Python standard library's own source
    installed   the same and the source of the installed packages
    a folder    the user's own text

The files' hashes and the split give a corpus its own hash. It differs between machines, and runs on corpora of
different hashes are never compared. tokenised.py has the same corpora in a tokenizer's tokens.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from v3bench.model_ref.errors import BadInput

if TYPE_CHECKING:
    from v3bench.suite.train.tokenised import Encoding

WORDS = 256  # a token is a byte
HELD_OUT = 20  # one file of so many is held out
# Folders that are no program's text: tests and tables repeat themselves, and packages are not the library.
LEFT_OUT = frozenset({"test", "tests", "idlelib", "encodings", "lib2to3", "site-packages", "dist-packages"})
END = b"\0"  # after each file


@dataclass(frozen=True)
class Source:
    """One file: its name within the corpus, the SHA-256 of its bytes, their number, its side of the split, its tokens.

    These are counted without what stands between files.
    """

    name: str
    sha256: str
    size: int
    held_out: bool
    tokens: int


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens of both sides, (N), and the files they come from; ``sha256`` is over names, contents and split.

    A token is a byte, uint8, unless an ``encoding`` says otherwise.
    """

    name: str
    sources: tuple[Source, ...]
    train: Tensor
    held_out: Tensor
    sha256: str
    encoding: Encoding | None = None

    @property
    def about(self) -> str:
        """The corpus in words, for a convention."""
        told = f"{self.name} {self.sha256[:12]}"
        return told if self.encoding is None else f"{told}, {self.encoding.about}"

    def files(self, *, held_out: bool) -> Iterator[tuple[Source, Tensor]]:
        """Each file of a side with its own tokens, without what stands between files."""
        side, place = self.held_out if held_out else self.train, 0
        before, after = (0, len(END)) if self.encoding is None else (len(self.encoding.tokens.start), 0)
        for source in self.sources:
            if source.held_out is held_out:
                place += before
                yield source, side[place : place + source.tokens]
                place += source.tokens + after

    def as_json(self) -> dict[str, Any]:
        """The list of files, as a run folder keeps it."""
        files: list[list[Any]] = [[s.name, s.sha256, s.size, s.held_out] for s in self.sources]
        columns, told = ["file", "sha256", "bytes", "held out"], {}
        if self.encoding is not None:
            files = [[*row, source.tokens] for row, source in zip(files, self.sources, strict=True)]
            columns, told = [*columns, "tokens"], {"tokenizer": self.encoding.as_json()}
        return {"name": self.name, "sha256": self.sha256, **told, "columns": columns, "files": files}


class Batches:
    """Batches of windows of a corpus in an order given by ``seed``: ``batches[step]`` is int64 (batch, length + 1).

    Windows begin every ``length`` tokens, so that each token is predicted once, and none twice: an epoch has ``len``
    batches. Asking for more raises BadInput.
    """

    def __init__(self, tokens: Tensor, batch: int, length: int, seed: int) -> None:
        self.tokens, self.batch, self.length = tokens, batch, length
        windows = max(len(tokens) - 1, 0) // length
        self.order = torch.randperm(windows, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.order) // self.batch

    def __getitem__(self, step: int) -> Tensor:
        if step >= len(self):
            raise IndexError(step)
        starts = self.order[step * self.batch : (step + 1) * self.batch] * self.length
        return self.tokens[starts[:, None] + torch.arange(self.length + 1)].long()

    def need(self, steps: int, name: str) -> None:
        """Raise BadInput where ``steps`` batches are more than one epoch."""
        if steps > len(self):
            what = f"{steps} steps of {self.batch} x {self.length} tokens are more than one epoch"
            raise BadInput(what, where=f"corpus {name}", right=f"at most {len(self)} steps, or a larger corpus")


@cache
def load(name: str) -> Corpus:
    """ "stdlib", "installed" or a folder of text. Raises BadInput."""
    if name == "stdlib":
        return of(name, standard_library())
    if name == "installed":
        return of(name, [*standard_library(), *packages()])
    return of(Path(name).resolve().name, folder(Path(name)))  # records name no place of this machine


def standard_library() -> list[tuple[str, Path]]:
    """(name, path) of the library's own modules."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return [(f"stdlib/{name}", path) for name, path in files(root) if name.endswith(".py")]


def packages() -> list[tuple[str, Path]]:
    """(name, path) of the modules of whatever is installed beside us."""
    roots = dict.fromkeys(sysconfig.get_paths()[key] for key in ("purelib", "platlib"))
    found = [pair for root in roots for pair in files(Path(root))]
    return [(f"packages/{name}", path) for name, path in found if name.endswith(".py")]


def folder(root: Path) -> list[tuple[str, Path]]:
    """(name, path) of every file of a folder. Raises BadInput."""
    if not root.is_dir():
        raise BadInput("is no folder", where=str(root), right="stdlib, installed, or a folder of text")
    return list(files(root, frozenset()))


def files(root: Path, left_out: frozenset[str] = LEFT_OUT) -> Iterator[tuple[str, Path]]:
    """Name relative to root and path, in the names' order; hidden folders, caches and ``left_out`` are passed by."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in left_out and f != "__pycache__" and not f.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            yield path.relative_to(root).as_posix(), path


def of(name: str, found: list[tuple[str, Path]]) -> Corpus:
    """The corpus of these files: text only, each content once. Raises BadInput for fewer than two."""
    texts: dict[str, tuple[str, bytes]] = {}
    for inside, path in found:
        try:
            data = path.read_bytes()
            data.decode("utf-8")
        except UnicodeDecodeError:
            continue  # a picture, or an encoding that would teach other bytes
        except OSError as error:
            raise BadInput(f"cannot be read ({error.strerror})", where=str(path), right="a readable file") from error
        if data and END not in data:
            texts.setdefault(hashlib.sha256(data).hexdigest(), (inside, data))
    if len(texts) < 2:
        raise BadInput(f"holds {len(texts)} files of text", where=name, right="at least 2: some are held out")
    # The split follows the contents, wherever they lie and whatever they are called.
    held = set(sorted(texts)[: max(1, len(texts) // HELD_OUT)])
    sources = tuple(
        Source(inside, digest, len(data), digest in held, len(data))
        for digest, (inside, data) in sorted(texts.items(), key=lambda item: item[1][0])
    )
    sides = (b"".join(texts[s.sha256][1] + END for s in sources if s.held_out is side) for side in (False, True))
    train, held_out = (torch.frombuffer(bytearray(side), dtype=torch.uint8) for side in sides)
    lines = "".join(f"{s.sha256} {s.held_out:d} {s.name}\n" for s in sources)
    return Corpus(name, sources, train, held_out, hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest())
