"""What the time of a step is made of when drafts are verified: a plain step, one that verifies, and the drafts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from v3bench.model_ref.model import Model
from v3bench.suite.meter.clock import for_device
from v3bench.suite.meter.measure import Effort, interleaved

CALLS = 4  # of a step in one sample of its time: a step of a small model takes a millisecond


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


def from_parts(tokens_per_step: float, costs: Steps) -> tuple[float, ...]:
    """What the parts alone would make of it: tokens a step over the step's cost, verified and drafted."""
    pairs = zip(costs.cost("verify"), costs.cost("draft"), strict=True)
    return tuple(tokens_per_step / (verify + draft) for verify, draft in pairs)
