"""Timing candidate configurations of a kernel on this GPU: each is checked against the oracle before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws import work
from v3bench.suite.meter.clock import Clock
from v3bench.suite.meter.contender import in_one_line
from v3bench.suite.meter.measure import Effort, interleaved
from v3bench.suite.trials import check, race, registry
from v3bench.suite.trials.trial import Inputs, Missing, Shape, Trial

ROUNDS = Effort(rounds=15, warmup=2, seconds=1.0)
MOST_SETS = 16
Config = Mapping[str, Any]
Capture = Callable[[Sequence[Callable[[], object]]], tuple[Callable[[], object], int]]


def fastest(op: str, shape: Shape, configs: Sequence[Config], say: Callable[[str], None]) -> tuple[str, Config]:
    """(the GPU's name, the configuration with the least median time) among those that give the right result."""
    import torch
    from v3bench.suite.meter import clock, graph

    def capture(calls: Sequence[Callable[[], object]]) -> tuple[Callable[[], object], int]:
        captured = graph.capture(calls)
        return captured.replay, captured.launches

    trial = registry.load(op)
    count = graph.sets_needed(work.of(op, shape).nbytes, graph.l2_bytes(), MOST_SETS)
    check.seeded(trial, shape, "cuda")
    sets = [trial.inputs(shape, "cuda") for _ in range(count)]
    try:
        times = timed(trial, sets, configs, capture, clock.for_device("cuda"), say)
    except Missing as missing:
        raise BadInput(f"no candidate of {op} can be checked at {dict(shape)}: {missing}", where="tune") from missing
    if not times:
        raise BadInput(f"no candidate of {op} gives a right result at {dict(shape)}", where="tune")
    best = min(times, key=lambda i: times[i])
    say(f"    {dict(shape)}: {times[best] * 1e6:.2f} us with {dict(configs[best])}, of {len(times)} timed")
    return torch.cuda.get_device_name(), configs[best]


def timed(
    trial: Trial,
    sets: Sequence[Inputs],
    configs: Sequence[Config],
    capture: Capture,
    clock: Clock,
    say: Callable[[str], None],
) -> dict[int, float]:
    """Median seconds of one launch, by the configuration's place; without those that fail or give a wrong result.

    Raises Missing where the oracle does not fit.
    """
    want = race.expected(trial, sets[0])  # the same for all of them: in float64 it takes longer than they do
    replays: dict[str, Callable[[], object]] = {}
    launches: dict[str, int] = {}
    for i, config in enumerate(configs):
        ours = partial(trial.ours, config=config)
        try:
            error = check.against(want, trial.error, sets[0], ours)
            if not error <= 1:
                say(f"    {dict(config)}: wrong, {error:.3g} times what is allowed")
                continue
            replays[str(i)], launches[str(i)] = capture([partial(ours, **inputs) for inputs in sets])
        except Exception as broken:  # one candidate that breaks does not end the tuning
            say(f"    {dict(config)}: {in_one_line(broken)}")
    taken = interleaved(replays, clock, ROUNDS) if replays else {}
    return {int(name): median(samples) / launches[name] for name, samples in taken.items()}
