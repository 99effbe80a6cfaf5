"""Teacher-forced acceptance: what MTP drafts against what the main head says, on the same true prefix.

The prefix t_0 .. t_i is of the text, whatever was drafted. The main head's choice for t_{i+1} is read from h_i, draft d
from depth d at position i-1 or i-d:

    a module for each draft   depth d is module d's own, at position i-d, as in training
    one module, re-applied    it ran on the main model's states up to position i-d; then at i-d+1 .. i-1 on its own
                              output of the position before and the embedding of the true token, over its own cache,
                              as serving engines apply it to what it drafted

N windows  L tokens read of each  D drafts  P positions with D drafts: L-D  W vocab_size
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model

CHUNK = 1 << 24  # logits of one head that are held at a time: 64 MB in float32


@dataclass(frozen=True, eq=False)
class Scores:
    """What was said after the prefixes that have D drafts: the last dimension is that of ids[:, D + 1 :].

    said      int64 (N, P), the main head's argmax
    drafts    int64 (N, D, P), each draft's
    wanted    int64 (N, P), the text's own token
    bits      float32 (N, P), of the text's token by the main head
    expected  temperature -> float32 (N, D, P), sum_w min(p_w, q_w): the chance that speculative sampling accepts
    """

    said: Tensor
    drafts: Tensor
    wanted: Tensor
    bits: Tensor
    expected: dict[float, Tensor]

    @property
    def accepted(self) -> Tensor:
        """Whether a draft is what the main head says, bool (N, D, P)."""
        return self.drafts == self.said[:, None]

    @property
    def accurate(self) -> Tensor:
        """Whether a draft is the text's own token, bool (N, D, P)."""
        return self.drafts == self.wanted[:, None]


@torch.no_grad()
def scores(model: Model, ids: Tensor, drafts: int, temperatures: Sequence[float] = (), rows: int = 128) -> Scores:
    """Of windows ids (N, L + 1), so many ``rows`` of them at a time; the result lies on the CPU. Without ``drafts`` it
    is what the main head alone says.

    Raises BadInput for drafts that the model cannot make, for windows too short for them, and for a temperature of 0,
    at which acceptance is ``accepted``.
    """
    check(model, ids, drafts, temperatures)
    parts = []
    for some in ids.to(model.embed.weight.device).split(rows):
        h = model.hidden(some[:, :-1])  # (rows, L, D)
        depths = states(model, h, some, drafts)
        parts.append(compared(model.logits, h[:, drafts:], depths, some[:, drafts + 1 :], temperatures))
    tables = {t: torch.cat([part.expected[t] for part in parts]) for t in temperatures}
    said, drafted, wanted, bits = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("said", "drafts", "wanted", "bits")
    )
    return Scores(said, drafted, wanted, bits, tables)


def check(model: Model, ids: Tensor, drafts: int, temperatures: Sequence[float]) -> None:
    """Raise BadInput for what ``scores`` cannot do."""
    modules = len(model.mtp)
    if drafts and not modules:
        raise BadInput("the model has no MTP modules", where="acceptance", right="one or more")
    if drafts < 0 or 1 < modules < drafts:
        right = "at least 0" if drafts < 0 else f"at most {modules}: of several modules none is applied again"
        raise BadInput(f"{drafts} drafts of {modules} modules", where="acceptance", right=right)
    if ids.ndim != 2 or not len(ids) or ids.shape[1] < drafts + 2:
        what = f"windows of shape {tuple(ids.shape)}"
        raise BadInput(what, where="acceptance", right=f"(N, at least {drafts + 2}) for {drafts} drafts")
    if bad := [t for t in temperatures if not t > 0]:
        raise BadInput(f"temperature {bad[0]}", where="acceptance", right="above 0")


def states(model: Model, h: Tensor, ids: Tensor, drafts: int) -> list[Tensor]:
    """Of each draft the states (N, P, hidden_size) that predict ids[:, drafts + 1 :], from h (N, L, hidden_size)."""
    if len(model.mtp) == 1 < drafts:
        return reapplied(model, h, ids, drafts)
    natural = model.further(h, ids)
    return [next(natural)[:, drafts - d :] for d in range(1, drafts + 1)]


def reapplied(model: Model, h: Tensor, ids: Tensor, drafts: int) -> list[Tensor]:
    """``states`` of one module that is applied to its own output."""
    N, L = h.shape[:2]
    (cache,) = model.new_mtp_caches(N, L - 1)
    first = model.run_mtp(1, h[:, : L - 1], ids[:, 1:L], cache)  # position j has read t_{j+1}
    depths = [first, *(torch.zeros_like(first) for _ in range(drafts - 1))]
    # From the last anchor back: a chain overwrites the entries of the positions after its anchor.
    for anchor in range(L - 3, -1, -1):
        cache.truncate(anchor + 1)
        state = first[:, anchor : anchor + 1]
        for d in range(2, min(drafts, L - 1 - anchor) + 1):
            j = anchor + d - 1
            state = model.run_mtp(1, state, ids[:, j + 1 : j + 2], cache)  # (N, 1, hidden_size)
            depths[d - 1][:, j] = state[:, 0]
    return [depth[:, drafts - 1 :] for depth in depths]


def compared(
    head: Callable[[Tensor], Tensor],
    main: Tensor,
    depths: Sequence[Tensor],
    wanted: Tensor,
    temperatures: Sequence[float],
) -> Scores:
    """The scores of states that predict the same tokens: main and of every draft (N, P, hidden_size), wanted (N, P).

    ``head`` gives logits. They are made for some positions at a time and never held for all.
    """
    N, D, P = len(wanted), len(depths), wanted.shape[1]
    main, true, drafting = main.flatten(0, 1), wanted.flatten(), [state.flatten(0, 1) for state in depths]
    said, drafted = torch.empty(N * P, dtype=torch.int64), torch.empty(N * P, D, dtype=torch.int64)
    bits, expected = torch.empty(N * P), {t: torch.empty(N * P, D) for t in temperatures}
    step = max(1, CHUNK // head(main[None, :1]).shape[-1])
    for start in range(0, N * P, step):
        here = slice(start, start + step)
        logits = wide(head(main[None, here])[0])  # (step, W)
        said[here] = logits.argmax(-1).cpu()
        bits[here] = (F.cross_entropy(logits, true[here], reduction="none") / math.log(2)).cpu().float()
        target = {t: (logits / t).softmax(-1) for t in temperatures}
        for d, state in enumerate(drafting):
            logits = wide(head(state[None, here])[0])
            drafted[here, d] = logits.argmax(-1).cpu()
            for t in temperatures:
                expected[t][here, d] = torch.minimum(target[t], (logits / t).softmax(-1)).sum(-1).cpu().float()
    by_draft = {t: table.view(N, P, D).transpose(1, 2) for t, table in expected.items()}
    return Scores(said.view(N, P), drafted.view(N, P, D).transpose(1, 2), wanted.cpu(), bits.view(N, P), by_draft)


def wide(logits: Tensor) -> Tensor:
    """In at least float32: sums of exponentials lose too much in less."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
