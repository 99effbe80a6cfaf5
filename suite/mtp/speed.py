"""How fast a model generates with drafts and without, and what the time of a step is made of. Greedy, in turns.

Seconds count from a text's first new token on: reading the prompt, the MTP module's own reading too, is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from v3bench.model_ref.agreement import Difference, compared
from v3bench.model_ref.generate import Generated, generate
from v3bench.model_ref.model import Model
from v3bench.model_ref.speculate import speculate
from v3bench.suite.meter.clock import for_device
from v3bench.suite.meter.measure import Effort, interleaved, turn
from v3bench.suite.mtp import conventions as named
from v3bench.suite.mtp.repetition import distinct

Prompts = Sequence[Sequence[int]]  # those that are decoded together
PLAIN = 0  # drafts a step
CALLS = 4  # of a step in one sample of its time: a step of a small model takes a millisecond


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


@dataclass(frozen=True)
class Steps:
    """Seconds of a plain step, of one that verifies drafts, and of making the drafts; the i-th were taken in turns."""

    plain: tuple[float, ...]
    verify: tuple[float, ...]
    draft: tuple[float, ...]

    def cost(self, part: str) -> tuple[float, ...]:
        """A part's seconds over the plain step's."""
        return tuple(own / plain for own, plain in zip(getattr(self, part), self.plain, strict=True))


@torch.inference_mode()
def steps(model: Model, ids: Tensor, drafts: int, rounds: int, device: str) -> Steps:
    """Over a context of ids int64 (B, L); each step ends with the choice of its tokens, and is then taken back.

    Rows of several that are drafted for differ in length, as soon as one accepts more than another; plain ones do not.
    """
    B, L = ids.shape
    last = ids[:, -1:].expand(B, 1 + drafts)
    plain_cache, cache = (model.new_cache(B, L + 1 + drafts) for _ in range(2))
    model.run(ids, plain_cache)
    h = model.run(ids, cache)
    (module,) = model.new_mtp_caches(B, L + 1 + 2 * drafts)[:1]
    model.run_mtp(1, h[:, :-1], ids[:, 1:], module)
    uneven = [row % 2 for row in range(B)] if B > 1 else [0]
    lengths, drafted = [L - more for more in uneven], [L - 1 - more for more in uneven]
    cache.truncate(lengths)
    states = h[:, -1:].expand(B, 1 + drafts, h.shape[2])

    def plain() -> None:
        model.logits(model.run(last[:, :1], plain_cache)).argmax(-1).tolist()
        plain_cache.truncate(L)

    def verify() -> None:
        model.logits(model.run(last, cache)).argmax(-1).tolist()
        cache.truncate(lengths)

    def draft() -> None:
        module.truncate(drafted)
        state = model.run_mtp(1, states, last, module)[:, -1:]
        token = model.logits(state).argmax(-1)
        for _ in range(drafts - 1):
            state = model.run_mtp(1, state, token, module)
            token = model.logits(state).argmax(-1)

    parts = {"plain": plain, "verify": verify, "draft": draft}
    taken = interleaved(
        {name: several(run) for name, run in parts.items()}, for_device(device), Effort(rounds, 1, seconds=60.0)
    )
    return Steps(**{name: tuple(seconds / CALLS for seconds in samples) for name, samples in taken.items()})


def several(run: Callable[[], None]) -> Callable[[], None]:
    """CALLS calls in one."""

    def all_of_them() -> None:
        for _ in range(CALLS):
            run()

    return all_of_them


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


def from_parts(tokens_per_step: float, costs: Steps) -> tuple[float, ...]:
    """What the parts alone would make of it: tokens a step over the step's cost, verified and drafted."""
    pairs = zip(costs.cost("verify"), costs.cost("draft"), strict=True)
    return tuple(tokens_per_step / (verify + draft) for verify, draft in pairs)
