"""Whether generated text goes in circles: then its next tokens are easily drafted, and acceptance says little."""

from __future__ import annotations

from collections.abc import Sequence

from v3bench.model_ref.errors import BadInput


def distinct(tokens: Sequence[int], n: int = 3) -> float:
    """Different n-grams of one row of generated tokens over all its n-grams; near 0 where it repeats itself.

    Distinct-n of Li et al. 2016 (arXiv:1510.03055), over n-grams in place of tokens. Of one row: pooled over rows it
    would fall with their number, whatever they say. Raises BadInput for fewer than n tokens.
    """
    if len(tokens) < n:
        raise BadInput(f"{len(tokens)} tokens", where="distinct", right=f"at least {n}")
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams)
