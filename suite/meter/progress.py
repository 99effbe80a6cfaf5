"""Progress in words: which area and case, which of how many, how long it took and about how long is left.

Progress    the cases of a run
Compiling   the candidates of an operation that is tuned
Reading     the weights of a checkpoint
Training    the steps of a proxy
Layers      the layers of a checkpoint that is streamed
unsteady    what to say of samples that lie too far apart
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.meter.statistics import FEWEST, spread, steady, summary

WIDE = 1.5
PART, QUIET = 0.05, 5.0  # a line of Compiling is for so much of the work, and at most one is said in so many seconds


class Progress:
    """Says one line per case as it begins, and one per skip or failure.

    ``away``: items that cannot run on this device, by the reason; all of a reason are said in one line, once.
    """

    def __init__(
        self,
        items: Sequence[Any],
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
        away: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.away = {name(item) for group in (away or {}).values() for item in group}
        self.order = [one for one in dict.fromkeys(map(name, items)) if one not in self.away]
        self.say, self.now = say, now
        for why, group in (away or {}).items():
            names = list(dict.fromkeys(map(name, group)))
            self.say(f"skipped: {why}: {', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}")
        self.started = now()
        self.current = ""
        self.count = 0

    def begin(self, item: Any) -> None:
        """Call when an item starts; the items of one case follow each other."""
        if name(item) == self.current:
            return
        self.current = name(item)
        if self.current in self.away:
            return
        elapsed, done, self.count = self.now() - self.started, self.count, self.count + 1
        # Cases differ, so the rest is only estimated once some are done.
        left = f", about {minutes(elapsed / done * (len(self.order) - done))} left" if done >= 2 else ""
        self.say(f"[{self.count}/{len(self.order)}] {self.current} ({minutes(elapsed)} so far{left})")

    def note(self, text: str) -> None:
        """Say what became of the current case."""
        if self.current in self.away:
            return
        self.say(f"    {text}")


class Compiling:
    """``done`` of compile_all: says how many of an operation's candidates are compiled. Heard from several threads."""

    def __init__(
        self, op: str, count: int, say: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.op, self.count, self.say, self.now = op, count, say, now
        self.done = self.told = 0
        self.started = self.last = now()
        self.lock = Lock()

    def __call__(self, job: object, outcome: object) -> None:
        with self.lock:
            self.done += 1
            now = self.now()
            if self.done == self.count or self.done - self.told < PART * self.count or now - self.last < QUIET:
                return
            self.told, self.last = self.done, now
            left = minutes((now - self.started) / self.done * (self.count - self.done))
            self.say(f"{self.op}: {self.done} of {self.count} compiled, about {left} left")


class Reading:
    """Call with how many values were just read: says how many of a checkpoint's are."""

    def __init__(
        self, what: str, values: int, say: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.what, self.values, self.say, self.now = what, values, say, now
        self.done = 0
        self.started = self.last = now()

    def __call__(self, values: int) -> None:
        self.done += values
        now = self.now()
        if self.done == self.values or now - self.last < QUIET:
            return
        self.last = now
        left = minutes((now - self.started) / self.done * (self.values - self.done))
        self.say(f"{self.what}: {self.done / 1e9:.3f} of {self.values / 1e9:.3f} billion values, about {left} left")


class Training:
    """Call behind every step with how many are done: says how far a proxy's training is. ``loss`` gives the last loss.

    The first step it hears of is where the run began, or goes on.
    """

    def __init__(
        self,
        what: str,
        steps: int,
        tokens: int,
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.steps, self.tokens, self.say, self.now = what, steps, tokens, say, now
        self.first: int | None = None

    def __call__(self, done: int, loss: Callable[[], float]) -> None:
        now = self.now()
        if self.first is None:
            self.first, self.started, self.last = done, now, now
        if now - self.last < QUIET or done == self.steps:
            return
        self.last = now
        rate = (done - self.first) / (now - self.started)  # steps per second
        left = minutes((self.steps - done) / rate)
        speed = f"{rate * self.tokens:,.0f} tokens/s, about {left} left"
        self.say(f"    {self.what}: step {done} of {self.steps}, loss {loss():.3f} nats, {speed}")


class Layers:
    """Call with the steps done and the bytes read in this sitting: says both, the rate and the time left."""

    def __init__(
        self,
        name: str,
        steps: int,
        total: int,
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.steps, self.total, self.say, self.now = name, steps, total, say, now
        self.began = self.last = now()

    def __call__(self, done: int, read: int) -> None:
        now = self.now()
        if done == self.steps or now - self.last < QUIET:
            return
        self.last = now
        rate = read / (now - self.began)
        left = minutes((self.total - read) / rate) if rate else "?"
        self.say(
            f"{self.name}: {done} of {self.steps} layers and tables, {read / 1e9:.1f} of {self.total / 1e9:.1f} GB, "
            f"{rate / 1e9:.2f} GB/s, about {left} left"
        )


def unsteady(records: Sequence[Measurement]) -> str:
    """A remark where samples of time lie too far apart, or "".

    On a host's clock: where the middle half spreads by more than half of itself. On a device's: where no claim follows,
    be it that the samples are too few to say how far they spread, or that they spread too far.
    """
    timed = {f"{m.subject}/{m.impl}": m for m in records if m.clock != "none"}
    rows = {name: summary(m.samples) for name, m in timed.items() if m.clock == "host"}
    wide = [
        f"{name} {row.quartile3 / row.quartile1:.1f}x"
        for name, row in rows.items()
        if row.quartile3 > WIDE * row.quartile1
    ]
    devices = {name: m.samples for name, m in timed.items() if m.clock != "host"}
    few = [f"{name} {len(samples)}" for name, samples in devices.items() if len(samples) < FEWEST]
    loose = [
        f"{name} {spread(samples):.1%}"
        for name, samples in devices.items()
        if len(samples) >= FEWEST and not steady(samples)
    ]
    remarks = [f"unsteady, as on a busy machine: the quartiles lie apart by {', '.join(wide)}"] if wide else []
    remarks += [f"no ratio is claimed of fewer than {FEWEST} samples: {', '.join(few)}"] if few else []
    remarks += [f"no ratio is claimed: p10 and p90 lie apart by {', '.join(loose)}"] if loose else []
    return "; ".join(remarks)


def name(item: Any) -> str:
    """ "area case" of a benchmark item; any other test by its own name."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if "case" not in params:
        return str(item.name)
    return f"{item.module.__name__.rpartition('bench_')[2]} {params['case']}"


def minutes(seconds: float) -> str:
    """Seconds as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
