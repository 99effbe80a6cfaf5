"""The run folder: run.json (what ran, on what), measurements.jsonl (what was found), benchmark.json.

measurements.jsonl only grows, a whole line at a time, each on disk before the next is measured: a kill
loses at most the line being written. The other files are replaced whole or not at all. A folder holds one
device, one commit and one version of each case; what differs is refused, never mixed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from v3bench.model_ref.errors import BadInput
from v3bench.suite.meter.machine import device_name
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.run_info import SCHEMA, check_info

LONE = "backslashreplace"  # half a surrogate, as in a path that is no UTF-8, becomes the JSON escape of it
RECORDS, INFO, BENCHMARK = "measurements.jsonl", "run.json", "benchmark.json"


@dataclass(frozen=True)
class Run:
    """A run folder as read: the facts of run.json, the measurements in force, and what was odd about the files.

    A skip or a failure is in force until a later record of the same thing; a success always is, since a
    folder may hold several launches of a case.
    """

    info: dict[str, Any]
    measurements: tuple[Measurement, ...]
    path: Path
    messages: tuple[str, ...] = ()


def load_run(path: str | Path) -> Run:
    """Read and check a run folder. Raises BadInput naming file and line; a last line cut off is only reported."""
    path = Path(path)
    info = read_info(path)
    found, whole, size = read_records(path)
    left_out = "the last line is cut off in the middle and is left out"
    cut = (f"{path / RECORDS}: {left_out}; v3bench run --resume --out {path} measures it again",)
    launches = {segment["launch"] for segment in info["segments"]}
    for n, record in enumerate(found, 1):
        if record.launch not in launches:
            what = f"line {n} has launch {record.launch!r}"
            raise BadInput(what, where=str(path / RECORDS), right="a launch of run.json")
    return Run(info, in_force(found), path, cut if whole < size else ())


def in_force(found: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Drop each skip or failure that a later record of the same series replaces."""
    kept: list[Measurement] = []
    later: set[tuple[str, str, str, str]] = set()
    # A skip knows no convention, so it is replaced by any later record of its subject, impl, case and metric.
    for m in reversed(list(found)):
        series = (m.subject, m.impl, m.case, m.metric)
        if m.status == "ok" or series not in later:
            kept.append(m)
        later.add(series)
    return tuple(reversed(kept))


def read_info(path: Path) -> dict[str, Any]:
    """run.json, checked. Raises BadInput."""
    where = str(path / INFO)
    try:
        raw = json.loads((path / INFO).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"cannot be read ({error.strerror})", where=where, right="a run folder that v3bench run has written"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"is not JSON ({error})", where=where, right="the file as v3bench run wrote it") from error
    return check_info(raw, where)


def read_records(path: Path) -> tuple[list[Measurement], int, int]:
    """(measurements in file order, bytes up to the end of the last whole line, bytes of the file). Raises BadInput."""
    where = path / RECORDS
    try:
        raw = where.read_bytes()
    except FileNotFoundError:
        return [], 0, 0
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", where=str(where)) from error
    whole = raw.rfind(b"\n") + 1
    found = []
    for n, line in enumerate(raw[:whole].splitlines(), 1):
        here = f"{where}: line {n}"
        try:
            found.append(Measurement.from_json(json.loads(line.decode("utf-8")), here))
        except BadInput as error:
            raise error if error.where == here else BadInput(error.what, where=here, right=error.right) from error
        except (ValueError, RecursionError) as error:
            raise BadInput(f"is no JSON ({error})", where=here, right="one measurement a line") from error
    return found, whole, len(raw)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: beside it first, then renamed over it; text as UTF-8. Raises OSError.

    A link stays one, and what is no file, as /dev/stdout, is written to and never replaced.
    """
    data = content.encode("utf-8", errors=LONE) if isinstance(content, str) else content
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


class RunFolder:
    """A run folder open for writing, by one process at a time."""

    def __init__(
        self, path: Path, info: dict[str, Any], messages: tuple[str, ...], found: list[Measurement], file: int
    ) -> None:
        self.path, self.info, self.messages, self.found, self.file = path, info, messages, found, file

    @classmethod
    def open(cls, path: str | Path, facts: dict[str, Any], versions: dict[str, int] | None = None) -> Self:
        """Make the folder, or go on in it: ``facts`` are machine.describe's, ``versions`` the cases' now.

        A last line cut off in the middle is taken out. Raises BadInput where the folder cannot be written, is
        being written, or holds another device, commit or case version.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            file = os.open(path / RECORDS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise BadInput(
                f"cannot be written ({error.strerror})", where=str(path), right="a folder on a disk with room"
            ) from error
        try:
            return cls.locked(path, facts, versions or {}, file)
        except BlockingIOError as error:
            os.close(file)
            raise BadInput(
                "is being written by another run", where=str(path), right="another --out, or to wait"
            ) from error
        except BaseException as error:
            os.close(file)
            if isinstance(error, OSError):
                raise BadInput(
                    f"cannot be written ({error.strerror})", where=str(path), right="a disk with room"
                ) from error
            raise

    @classmethod
    def locked(cls, path: Path, facts: dict[str, Any], versions: dict[str, int], file: int) -> Self:
        """``open`` once the file is there; raises BlockingIOError when another process holds it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found, whole, size = read_records(path)
        if (path / INFO).exists():
            info = read_info(path)
            refuse_foreign(info, facts, str(path))
        elif size:
            raise BadInput("holds measurements but no run.json", where=str(path), right="a run folder, or a new one")
        else:
            info = {"schema": SCHEMA, **facts, "segments": []}
        for m in found:
            if m.case in versions and m.case_version != versions[m.case]:
                what = f"holds version {m.case_version} of case {m.case}; it is version {versions[m.case]} now"
                raise BadInput(what, where=str(path), right="another --out")
        messages: tuple[str, ...] = ()
        if whole < size:
            os.ftruncate(file, whole)
            messages = (
                f"{path / RECORDS}: the last line was cut off in the middle; it is taken out and measured again",
            )
        return cls(path, info, messages, found, file)

    @property
    def segments(self) -> list[dict[str, Any]]:
        """What was run into this folder, one entry per launch, oldest first."""
        segments: list[dict[str, Any]] = self.info["segments"]
        return segments

    def start(self, segment: dict[str, Any]) -> None:
        """Enter a launch into run.json; its ``end`` and ``exit`` stay null until ``finish``. Raises BadInput."""
        self.info["segments"].append({**segment, "end": None, "exit": None})
        try:
            self.write(INFO, self.info)
        except OSError as error:
            raise BadInput(
                f"cannot be written ({error.strerror})", where=str(self.path), right="a disk with room"
            ) from error

    def finish(self, end: str, status: int) -> None:
        """Note when and how the last launch ended. Raises OSError."""
        self.info["segments"][-1] |= {"end": end, "exit": status}
        self.write(INFO, self.info)

    def append(self, *records: Measurement) -> None:
        """Put records on disk, all in one write. When it raises, OSError or a signal's, the file is as it was."""
        size = os.fstat(self.file).st_size
        data = "".join(m.line() + "\n" for m in records).encode("utf-8", LONE)
        try:
            while data:
                data = data[os.write(self.file, data) :]
            self.found.extend(records)
            os.fsync(self.file)
        except BaseException as error:
            if data or isinstance(error, OSError):
                with suppress(OSError):
                    os.ftruncate(self.file, size)
            raise

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of the folder whole or not at all. Raises OSError."""
        write_whole(self.path / name, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def close(self) -> None:
        """Let other processes write."""
        os.close(self.file)


def refuse_foreign(info: dict[str, Any], facts: dict[str, Any], where: str) -> None:
    """Raise BadInput when a folder was made by another commit or on another device."""
    then, now = revision(info), revision(facts)
    if then != now:
        raise BadInput(f"was measured at {then}; this is {now}", where=where, right="another --out")
    then, now = (f"{f['device']} ({device_name(f)}, {f['cpu']['threads']} threads)" for f in (info, facts))
    if then != now:
        raise BadInput(f"was measured on {then}; this is {now}", where=where, right="another --out")


def revision(facts: dict[str, Any]) -> str:
    """The code of a run in words: "commit 1a2b3c" or "v3bench 0.1.0 (no commit)"."""
    if facts["commit"] is None:
        return f"v3bench {facts['packages'].get('v3bench', '?')} (no commit)"
    return f"commit {facts['commit'][:12]}" + (" with changes" if facts["dirty"] else "")
