"""How long a step of a part takes with one token of each request and with two, in turns; samples by tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle

from v3bench.suite.meter.clock import host
from v3bench.suite.meter.competition import Instruments, compete
from v3bench.suite.meter.contender import Contender
from v3bench.suite.meter.measure import DEVICE_EFFORTS, ONCE, Effort, interleaved
from v3bench.suite.meter.recorder import Recorder
from v3bench.suite.mtp.conventions import TOKENS as NAMES
from v3bench.suite.mtp.part_source import TOKENS, Step

Times = Mapping[int, tuple[float, ...]]  # seconds by tokens; the i-th were taken side by side


def taken(step: Step, record: Recorder, rounds: int) -> Times:
    """On the session's device, with the effort of its profile there; ``rounds`` on a CPU, where a call is slow."""
    session = record.session
    if session.plan.device != "cuda":
        return on_cpu(step, ONCE if record.effort == ONCE else Effort(rounds, 1, seconds=60.0))
    session.instruments = session.instruments or Instruments.of_gpu()
    effort = ONCE if record.effort == ONCE else DEVICE_EFFORTS[session.plan.profile]
    return on_gpu(step, effort, session.instruments)


def on_cpu(step: Step, effort: Effort) -> Times:
    """Every call takes the next copy of the weights, whichever step it is of."""
    turn = cycle(range(step.copies))

    def run(tokens: int) -> Callable[[], object]:
        return lambda: step.call(next(turn), tokens)()

    samples = interleaved({NAMES[n]: run(n) for n in NAMES}, host, effort)
    return {n: samples[name] for n, name in NAMES.items()}


def on_gpu(step: Step, effort: Effort, tools: Instruments) -> Times:
    """A launch of each from a captured graph over all copies. Raises AssertionError where one cannot run."""
    outcome = compete({NAMES[n]: Contender(step.calls(n)) for n in NAMES}, effort, tools)
    assert not outcome.fates, "; ".join(f"{name}: {why}" for name, (_, why) in outcome.fates.items())
    return {n: outcome.samples[name] for n, name in NAMES.items()}


def cost(seconds: Times) -> tuple[float, ...]:
    """Two tokens over one, pair by pair."""
    return tuple(two / one for one, two in zip(seconds[1], seconds[TOKENS], strict=True))


def rate(step: Step, seconds: Times, tokens: int) -> tuple[float, ...]:
    """Bytes that the step needs, each once, a second."""
    return tuple(step.nbytes[tokens - 1] / s for s in seconds[tokens])
