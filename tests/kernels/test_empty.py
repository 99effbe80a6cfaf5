"""What is empty: every size of every launcher at 0 gives the right result, or one error that names the argument."""

from __future__ import annotations

import pytest
import torch
from v3bench.suite.trials.check import poisoned

from .launchers import LAUNCHERS, tensors

CASES = [(name, size) for name, launcher in LAUNCHERS.items() for size in launcher.sizes]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, under the interpreter
@pytest.mark.parametrize(("name", "size"), CASES)
def test_a_size_of_nothing_is_answered_or_refused(name: str, size: str) -> None:
    launcher = LAUNCHERS[name]
    inputs = launcher.inputs(**(launcher.sizes | {size: 0}))
    if size in launcher.refuses:
        with pytest.raises(ValueError, match=rf"^\w+: .*{launcher.refuses[size]}"):
            launcher.call(**inputs)
        return
    with poisoned():
        got = tensors(launcher.call(**inputs))
    if size in launcher.nothing.split():
        assert all(((part == 0) | (part == float("-inf"))).all() for part in got)
        return
    for part, want in zip(got, tensors(launcher.want(**inputs)), strict=True):
        torch.testing.assert_close(part, want, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_table_asks_what_launchers_take(name: str) -> None:
    """Else a size of nothing could be refused for another reason."""
    launcher = LAUNCHERS[name]
    inputs = launcher.inputs(**launcher.sizes)
    with poisoned():
        got = tensors(launcher.call(**inputs))
    for part, want in zip(got, tensors(launcher.want(**inputs)), strict=True):
        assert part.shape == want.shape
        assert not part.isnan().any()
