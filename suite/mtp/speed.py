"""How fast a model generates with drafts and without. Greedy, in turns.

Seconds count from a text's first new token on: reading the prompt, the MTP module's own reading too, is left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from v3bench.model_ref.agreement import Difference, compared
from v3bench.model_ref.generate import Generated, generate
from v3bench.model_ref.model import Model
from v3bench.model_ref.speculate import speculate
from v3bench.suite.meter.measure import turn
from v3bench.suite.mtp import conventions as named
from v3bench.suite.mtp.repetition import distinct
from v3bench.suite.mtp.steps import Steps, from_parts

Prompts = Sequence[Sequence[int]]  # those that are decoded together
PLAIN = 0  # drafts a step


@dataclass
class Race:
    """Groups of ``batch`` prompts, continued by ``new`` tokens one group after another, some rounds.

    By number of drafts: the seconds of each generation, and the rows of all groups. Entries at the same place of two
    lists of seconds are of one group and were taken side by side.
    """

    batch: int
    new: int
    seconds: dict[int, list[float]] = field(default_factory=dict)
    rows: dict[int, list[Generated]] = field(default_factory=dict)

    def rates(self, drafts: int) -> tuple[float, ...]:
        """Tokens per second of one row, the first token left out."""
        return tuple((self.new - 1) / seconds for seconds in self.seconds[drafts])

    def speed_up(self, drafts: int) -> tuple[float, ...]:
        """Plain seconds over those with drafts."""
        pairs = zip(self.seconds[PLAIN], self.seconds[drafts], strict=True)
        return tuple(plain / other for plain, other in pairs)

    def accepted(self, drafts: int) -> list[float]:
        """The share of drafts that were accepted, by position; one whose predecessor was not is not accepted either."""
        rows = self.rows[drafts]
        totals = [[sum(counts) for counts in zip(*(getattr(row, of) for row in rows), strict=True)] for of in COUNTS]
        return [good / tried for tried, good in zip(*totals, strict=True)]

    def tokens_per_step(self, drafts: int) -> float:
        """Tokens that a row gains in a step of the main model, the first token left out."""
        return sum(len(row.tokens) - 1 for row in self.rows[drafts]) / sum(row.steps for row in self.rows[drafts])


COUNTS = ("proposed", "accepted")


def race(model: Model, groups: Sequence[Prompts], new: int, drafts: Sequence[int], rounds: int, device: str) -> Race:
    """Whole generations, plain and with each number of drafts, in turns: A-B, then B-A; the first group also before."""
    found = Race(len(groups[0]), new)
    for count in (PLAIN, *drafts):
        decoded(model, groups[0], new, count, device)
    for number in range(rounds):
        for place, prompts in enumerate(groups):
            for count in turn([PLAIN, *drafts], number + place):
                seconds, rows = decoded(model, prompts, new, count, device)
                found.seconds.setdefault(count, []).append(seconds)
                if not number:
                    found.rows.setdefault(count, []).extend(rows)
    return found


def decoded(model: Model, prompts: Prompts, new: int, drafts: int, device: str) -> tuple[float, list[Generated]]:
    """Seconds from the first new token to the last, and what was generated."""
    started: list[float] = []

    def seen(row: int, tokens: Sequence[int]) -> None:
        if not started:
            started.append(finished(device))

    if drafts == PLAIN:
        rows = generate(model, prompts, new, on_tokens=seen)
    else:
        rows = speculate(model, prompts, new, drafts=drafts, on_tokens=seen)
    return finished(device) - started[0], rows


def parted(model: Model, groups: Sequence[Prompts], found: Race, drafts: int) -> list[Difference]:
    """Where drafts changed a row's text: nowhere in float32; in BF16 only where rounding explains it.

    Raises AssertionError otherwise.
    """
    differing: list[Difference] = []
    rows = list(zip(found.rows[PLAIN], found.rows[drafts], strict=True))
    for n, prompts in enumerate(groups):
        first = n * found.batch
        if any(plain.tokens != fast.tokens for plain, fast in rows[first : first + len(prompts)]):
            again = compared(model, prompts, found.new, drafts=drafts).differences
            differing += [one._replace(row=first + one.row) for one in again]
    exact = model.embed.weight.dtype == torch.float32
    if wrong := [one for one in differing if exact or not one.explained]:
        raise AssertionError(f"{drafts} drafts give other tokens than plain decoding: {wrong[0]}")
    return differing


def finished(device: str) -> float:
    """The time once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def figures(found: Race, costs: Steps) -> Iterator[tuple[str, str, Sequence[float]]]:
    """(metric, convention, samples) of all that a race and its steps' times, with one draft a step, say."""
    B, counts = found.batch, [D for D in found.rows if D != PLAIN]
    yield "tokens_per_second", named.plain(B), found.rates(PLAIN)
    yield "distinct_3grams", named.generated(B), [distinct(row.tokens) for row in found.rows[min(counts)]]
    for D in counts:
        yield "tokens_per_second", named.drafting(D, B), found.rates(D)
        yield "tokens_per_step", named.drafting(D, B), [found.tokens_per_step(D)]
    for d, share in enumerate(found.accepted(max(counts)), 1):
        yield "acceptance_rate", named.in_generation(d, B), [share]
    yield "step_cost", named.batched(named.TWO_TOKEN_STEP, B), costs.cost("verify")
    yield "step_cost", named.batched(named.DRAFT, B), costs.cost("draft")
    yield "speed_up", named.batched(named.BOUND, B), [found.tokens_per_step(1)]
    yield "speed_up", named.batched(named.FROM_PARTS, B), from_parts(found.tokens_per_step(1), costs)
    yield "speed_up", named.batched(named.MEASURED, B), found.speed_up(1)
