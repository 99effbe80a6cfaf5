"""v3bench run: the benchmarks of a profile, through pytest, into a run folder."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v3bench.model_ref.errors import BadInput
from v3bench.suite import models
from v3bench.suite.ledger import cases as case_table
from v3bench.suite.ledger.cases import PROFILES
from v3bench.suite.meter import machine, triton_cache
from v3bench.suite.meter.measurement import AREAS
from v3bench.suite.run_folder import RunFolder, write_whole
from v3bench.suite.trials import own

if TYPE_CHECKING:
    from v3bench.suite.meter.session import Plan

BENCH = Path(__file__).parent / "bench"
LOG = "pytest.log"
# The last words of a segment's command, each before the name of what is given, without its place on this machine.
CHECKPOINT, CORPUS, TOKENIZER = "--checkpoint", "--corpus", "--tokenizer"
PROXIES = "mtp"  # the area that a tokenizer is for
DONE, FAILED, REFUSED, CUT_SHORT = 0, 1, 2, 3


def run(
    *,
    profile: str = "quick",
    only: Sequence[str] = (),
    device: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint: str | Path | None = None,
    corpus: str | Path | None = None,
    tokenizer: str | Path | None = None,
    impls: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    bench: Path = BENCH,
    cases: Path = case_table.PATH,
    facts: Callable[[str], dict[str, Any]] = machine.describe,
) -> tuple[Path, int]:
    """Run the benchmarks of a profile into a run folder; (the folder, exit status).

    0: all went well; 1: a benchmark or its correctness check failed; 2: nothing failed but input that cannot be used,
    such as a checkpoint that lacks a weight; 3: cut short by a signal or a full disk. What was measured is kept.
    ``say`` gets one line at a time. An existing folder is gone on in as a new segment; with ``resume``, what it holds
    is not measured again. ``impls`` are kernels of one's own, as --impl names them. ``bench``, ``cases`` and ``facts``
    are the benchmarks, their table, and who describes the machine. Raises BadInput before anything is measured.
    """
    from v3bench.suite.meter.session import Plan

    areas = chosen_areas(profile, only)
    if impls and "kernels" not in areas:
        raise BadInput("kernels are not among the areas to run", where=own.FLAG, right="--only with kernels")
    device = chosen_device(device)
    given = {CHECKPOINT: checked_checkpoint(checkpoint), CORPUS: checked_corpus(corpus)}
    given[TOKENIZER] = checked_tokenizer(tokenizer, areas)
    table = own.entered(case_table.load(cases), impls)
    own.need_a_case(table, impls, profile, device)
    say = whoever_listens(say)
    described = facts(device)
    versions = {case.name: case.version for case in table.values()}
    folder = RunFolder.open(chosen_folder(out, device, profile, resume), described, versions)
    try:
        refuse_others(folder, given, areas)
        for message in folder.messages:
            say(message)
        plan = Plan(
            profile=profile,
            device=device,
            cases=table,
            areas=areas,
            facts=lambda _: described,
            folder=folder,
            launch=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
            resume=resume,
            checkpoint=str(checkpoint) if checkpoint else None,
            corpus=str(Path(corpus).resolve()) if corpus else None,
            tokenizer=None if tokenizer is None else chosen_tokenizer(tokenizer),
            say=say,
        )
        segment = {"profile": profile, "areas": list(areas), "device": device, "launch": plan.launch, "start": now()}
        folder.start({"command": command_line(profile, only, device, resume, given, impls), **segment})
        say(f"run folder: {folder.path}")
        if "kernels" in areas and device == "cuda":
            for line in triton_cache.brought():
                say(line)
        status = measure(plan, folder, bench)
        try:
            folder.finish(now(), status)
        except OSError as error:
            say(f"{folder.path}: run.json cannot be written ({error.strerror}); the measurements so far are kept")
            status = CUT_SHORT
        return folder.path, status
    finally:
        folder.close()


def measure(plan: Plan, folder: RunFolder, bench: Path) -> int:
    """Run pytest on the benchmark files of the plan's areas; the exit status."""
    import pytest
    from v3bench.suite.meter import plugin

    files = {area: bench / f"bench_{area}.py" for area in plan.areas}
    if missing := [area for area, path in files.items() if not path.is_file()]:
        plan.say(f"no benchmark yet: {', '.join(missing)}")
    present = [str(path) for path in files.values() if path.is_file()]
    if not present:
        return DONE
    began = time.monotonic()
    # Nothing of the user's own pytest settings, plug-ins or conftests may change what is measured.
    arguments = ["-c", os.devnull, "--rootdir", str(bench.parent.parent), "--import-mode=importlib"]
    arguments += ["-o", "python_files=bench_*.py", "-p", "pytest_benchmark.plugin", "-p", plugin.__name__]
    arguments += ["-p", "no:cacheprovider", "-p", "no:terminal", "--confcutdir", str(bench)]
    # Captured by name only: who says how far a benchmark is has standard error itself.
    arguments += ["--continue-on-collection-errors", "--capture=sys"]
    with signals_interrupt(), environment(PYTEST_ADDOPTS=None, PYTEST_PLUGINS=None, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"):
        code = pytest.main([*arguments, *present], plugins=[plan])
    session = plan.session
    if session is None:
        raise BadInput("pytest could not start; its message stands above", where=str(bench))
    if session.tracebacks:
        with suppress(OSError):
            write_whole(folder.path / LOG, "\n".join(session.tracebacks))
            plan.say(f"tracebacks: {folder.path / LOG}")
    counts = {status: sum(m.status == status for m in session.records) for status in ("ok", "skipped", "failed")}
    took = f"{time.monotonic() - began:.0f} s"
    plan.say(f"{counts['ok']} measured, {counts['skipped']} skipped, {counts['failed']} failed, {took}")
    if code == pytest.ExitCode.INTERRUPTED or session.cut_short:
        goes_on = f"v3bench run --resume --out {folder.path} goes on"
        plan.say(session.cut_short or f"cut short; what was measured is kept; {goes_on}")
        return CUT_SHORT
    if session.refused and not session.tracebacks:
        return REFUSED
    return DONE if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else FAILED


def chosen_areas(profile: str, only: Sequence[str]) -> tuple[str, ...]:
    """The areas to run, in the order of the list. Raises BadInput."""
    if profile not in PROFILES:
        raise BadInput(f"unknown profile {profile!r}", where="--profile", right=f"one of {', '.join(PROFILES)}")
    if unknown := [area for area in only if area not in AREAS]:
        raise BadInput(f"unknown area {unknown[0]!r}", where="--only", right=f"one of {', '.join(AREAS)}")
    return tuple(area for area in AREAS if not only or area in only)


def checked_checkpoint(path: str | Path | None) -> str:
    """The name of a checkpoint's folder, "" without one. Raises BadInput."""
    if path is None:
        return ""
    if not (Path(path) / "config.json").is_file():
        raise BadInput("holds no config.json", where=str(path), right="a folder with a released checkpoint")
    models.load(str(Path(path) / "config.json"))
    return Path(path).resolve().name


def checked_corpus(path: str | Path | None) -> str:
    """The name of a folder of text, "" without one. Raises BadInput."""
    if path is None:
        return ""
    if not Path(path).is_dir():
        raise BadInput("is no folder", where=f"{CORPUS} {path}", right="a folder of text")
    return Path(path).resolve().name


def checked_tokenizer(path: str | Path | None, areas: Sequence[str]) -> str:
    """The name of a tokenizer's file and how its hash begins, since all are called the same. Raises BadInput."""
    if path is None:
        return ""
    if PROXIES not in areas:
        raise BadInput(f"{PROXIES} is not among the areas to run", where=TOKENIZER, right=f"--only with {PROXIES}")
    from v3bench.suite import tokens
    from v3bench.suite.mtp.ngram import MOST

    read = tokens.read(str(Path(path).resolve()))
    if read.size > MOST:
        right = f"at most {MOST}: so many words an n-gram model is made of"
        raise BadInput(f"has {read.size} tokens", where=f"{TOKENIZER} {path}", right=right)
    return f"{tokens.file_of(path).name}@{read.sha256[:12]}"


def chosen_tokenizer(path: str | Path) -> str:
    """The one path of a tokenizer's file, however it was named: plans that are equal give equal paths."""
    from v3bench.suite import tokens

    return str(tokens.file_of(path).resolve())


def chosen_device(device: str | None) -> str:
    """The device to run on. Raises BadInput where there is none such."""
    if device not in (None, "cpu", "cuda"):
        raise BadInput(f"unknown device {device!r}", where="--device", right="cpu or cuda")
    if device == "cpu":
        return "cpu"
    import torch

    present = torch.cuda.is_available()
    if device == "cuda" and not present:
        raise BadInput(
            "torch sees no CUDA device", where="--device cuda", right="--device cpu, or a machine with a GPU"
        )
    return "cuda" if present else "cpu"


def chosen_folder(out: str | Path | None, device: str, profile: str, resume: bool) -> Path:
    """The run folder: ``out``, or runs/<date>-<device>-<profile> with a number where that is taken. Raises BadInput."""
    if out is not None:
        if not str(out):
            raise BadInput("is empty", where="--out", right="a folder to write")
        if resume and not Path(out, "run.json").is_file():
            raise BadInput("holds no run to go on with", where=str(out), right="an existing run folder, or no --resume")
        return Path(out)
    if resume:
        earlier = sorted(Path("runs").glob(f"*-{device}-{profile}*/run.json"), key=lambda path: path.stat().st_mtime)
        if not earlier:
            raise BadInput(
                f"runs/ holds no {profile} run on {device}", where="--resume", right="--out DIR, or no --resume"
            )
        return earlier[-1].parent
    stem = Path("runs", f"{datetime.now():%Y-%m-%d}-{device}-{profile}")
    path, n = stem, 1
    while path.exists():
        n += 1
        path = stem.with_name(f"{stem.name}-{n}")
    return path


def command_line(
    profile: str,
    only: Sequence[str],
    device: str,
    resume: bool,
    given: Mapping[str, str],
    impls: Sequence[str] = (),
) -> str:
    """The command of a segment, without the paths of this machine."""
    words = ["v3bench", "run", "--profile", profile, "--device", device]
    words += ["--only", ",".join(only)] if only else []
    words += ["--resume"] if resume else []
    words += [word for impl in impls for word in (own.FLAG, impl)]
    words += [word for flag, name in given.items() if name for word in (flag, name)]
    return " ".join(words)


def refuse_others(folder: RunFolder, given: Mapping[str, str], areas: Sequence[str]) -> None:
    """Raise BadInput where a folder was measured with another checkpoint, text or tokenizer, to pass for this one's.

    Bytes are one more tokenizer.
    """
    for flag, name in given.items():
        for segment in folder.segments:
            then = next(iter(segment["command"].partition(f" {flag} ")[2].split(" --")), "")
            whole = flag == TOKENIZER and PROXIES in areas and PROXIES in segment["areas"]
            if then != name and (whole or (name and then)):
                what = f"was measured with {flag.removeprefix('--')} {then or 'none'}; this is {name or 'none'}"
                raise BadInput(
                    what,
                    where=str(folder.path),
                    right=f"another --out, or {f'{flag} {then}' if then else f'no {flag}'}",
                )


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def whoever_listens(say: Callable[[str], None]) -> Callable[[str], None]:
    """``say``, without the end of a run when its reader has gone, as with a closed pipe."""

    def said(line: str) -> None:
        with suppress(OSError):
            say(line)

    return said


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does; only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    # What is ignored, as SIGHUP under nohup, stays ignored.
    caught = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Environment variables set, or unset, for a while."""
    before = {name: os.environ.get(name) for name in values}
    put(values)
    try:
        yield
    finally:
        put(before)


def put(values: dict[str, str | None]) -> None:
    """Set each variable, or unset it for None."""
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
