"""Where greedy speculative decoding leaves plain decoding, and whether rounding explains it.

    rounding_bound   how far two runs of one model may move two logits apart
    compared         both ways of decoding, and every row's first difference
    movement         how far reading a text anew moves two logits apart

In float32 there is none. In bfloat16 one token and several tokens a step add up in different orders, are rounded
differently, and where two logits nearly tie the other token may win. From there on the texts have nothing in common,
so a row's comparison ends with its first difference. A mixture of experts may move further than rounding alone: what
lies beyond the bound is held against the same text read anew, without drafts and with an empty cache.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from v3bench.model_ref.generate import Generated, generate
from v3bench.model_ref.model import Model
from v3bench.model_ref.speculate import speculate

INNER = 20  # roundings one after another from a block's input to its outputs: mla.py (13), then moe.py (7)
SIGMAS = 4.0  # one place in 16,000 lies beyond by chance


class Difference(NamedTuple):
    """New token ``at`` of a row is ``plain`` in plain decoding, where the best two logits are ``gap`` apart.

    ``distance`` is how far below the best the plain run has the token that speculative decoding took, ``other``;
    ``moved`` how far the two logits move when the same text is read anew, more tokens at a time; 0 where distance is
    within the bound anyway.
    """

    row: int
    at: int
    plain: int
    other: int
    gap: float
    distance: float
    bound: float
    moved: float

    @property
    def within(self) -> bool:
        """Whether the two logits were within the bound, and so the best two."""
        return self.distance <= self.bound

    @property
    def explained(self) -> bool:
        """Whether rounding explains it: by the bound, or because reading the text anew moves the logits as far."""
        return self.within or self.distance <= self.moved

    @property
    def told(self) -> str:
        """In words, for a list."""
        why = "" if self.within else f", beyond it; the same text read anew moves them {self.moved:.3g}"
        texts = (
            f"row {self.row} parts from plain decoding at new token {self.at}: {self.other} in place of {self.plain}"
        )
        return f"{texts}, whose logits are {self.distance:.3g} apart, bound {self.bound:.3g}{why}"


class Comparison(NamedTuple):
    """What both ways generated from the same prompts, and where they part."""

    plain: list[Generated]
    speculative: list[Generated]
    differences: list[Difference]


@torch.inference_mode()
def compared(
    model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, drafts: int = 1, stop: Collection[int] = ()
) -> Comparison:
    """Decode greedily both ways. Raises BadInput as these do."""
    fast = speculate(model, prompts, max_new_tokens, drafts=drafts, stop=stop)
    said = torch.tensor([[*row.tokens, *[0] * (max_new_tokens - len(row.tokens))] for row in fast])
    said = said.to(model.embed.weight.device)
    seen: list[tuple[list[int], Tensor]] = []

    def watch(rows: list[int], logits: Tensor) -> None:
        other = logits.gather(1, said[rows, len(seen)].unsqueeze(1))
        bound = rounding_bound(logits, len(model.layers)).unsqueeze(1)
        seen.append((rows, torch.cat((logits.float().topk(2).values, other.float(), bound), dim=1)))

    plain = generate(model, prompts, max_new_tokens, stop=stop, on_logits=watch)
    found = []
    for row, (a, b) in enumerate(zip(plain, fast, strict=True)):
        at = next((i for i, pair in enumerate(zip(a.tokens, b.tokens, strict=False)) if pair[0] != pair[1]), None)
        if at is not None:
            rows, values = seen[at]
            best, second, other, bound = values[rows.index(row)].tolist()
            text, pair = [*prompts[row], *a.tokens[:at]], (a.tokens[at], b.tokens[at])
            moved = movement(model, text, *pair, best - other, drafts) if best - other > bound else 0.0
            found.append(Difference(row, at, *pair, best - second, best - other, bound, moved))
    return Comparison(plain, fast, found)


def movement(model: Model, text: Sequence[int], plain: int, other: int, distance: float, drafts: int) -> float:
    """How far the logits of two tokens after ``text`` get from ``distance`` when it is read some tokens at a time."""
    found = 0.0
    for width in (1 + drafts, len(text)):
        cache = model.new_cache(1, len(text))
        for i in range(0, len(text), width):
            logits = model.decode(torch.tensor([text[i : i + width]], device=model.embed.weight.device), cache)
        best, second = logits[0, -1, [plain, other]].float().tolist()
        found = max(found, abs(best - second - distance))
    return found


def rounding_bound(logits: Tensor, layers: int) -> Tensor:
    """Bound (...) on how far two runs of a model of so many blocks move two of the logits (..., W) apart, float32.

    With u = eps/2 of the logits' dtype, a result that is rounded is off by up to u of itself: u/sqrt(3) root mean
    square. The residual stream is rounded twice a block, as a whole; the roundings within blocks are of what they add
    to it, and all blocks' together count as one block's, since the stream is the sum of what they add. So n =
    2 layers + INNER roundings leave its direction off by u sqrt(n/3). Runs that add up in another order have
    independent errors (sqrt(2)), a logit moves by that share of the logits' spread over the vocabulary, two of them
    sqrt(2) further apart; SIGMAS of it. Last, each of the two logits is itself rounded in each run, by u of it.

    A near-tie between two experts is not in it: where rounding sends a token to another one, it may move further.
    """
    z = logits.float()
    u = torch.finfo(logits.dtype).eps / 2
    moved: Tensor = SIGMAS * 2 * u * ((2 * layers + INNER) / 3) ** 0.5 * z.std(dim=-1)
    return moved + 4 * u * z.abs().amax(dim=-1)
