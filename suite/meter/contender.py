"""A contender: one implementation as the timing of a case takes it, with as many buffer sets as the L2 demands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Call = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """``calls``: the same launch, one for each buffer set; or why there is none: ``missing``, it cannot run here, which
    is recorded as skipped; ``failed``, its own correctness check did not pass.
    """

    calls: Sequence[Call] = ()
    missing: str = ""
    failed: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.calls, self.missing, self.failed))) != 1:
            raise ValueError("a contender has calls, or one reason why there are none")

    @property
    def fate(self) -> tuple[str, str] | None:
        """(skipped or failed, why) of one without calls."""
        return None if self.calls else ("skipped", self.missing) if self.missing else ("failed", self.failed)


def in_one_line(error: BaseException) -> str:
    """An exception as the reason of a failed record: its type and what it says, without what CUDA adds below."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {' '.join(said[0].split()) if said else 'no message'}"[:300]
