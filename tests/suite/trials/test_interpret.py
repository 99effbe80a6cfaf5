"""Kernels checked in a child process under the interpreter, and a child that dies."""

from __future__ import annotations

import pytest
from v3bench.suite.trials.contest import Wrong
from v3bench.suite.trials.interpret import Interpreter

MINE = """
from v3bench.kernels.quantize import reference_tiles as good

def noisy(x):
    print("a line that is no answer")
    return good(x)

def wrong(x):
    codes, scales = good(x)
    return codes, scales * 1.01

def dies(x):
    import os
    os._exit(7)
"""


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    (tmp_path / "mine_interpreted.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    made = Interpreter()
    yield made
    made.close()


def test_ours_and_ones_own_are_checked_and_a_dead_child_is_replaced(interpreter):
    assert interpreter("quantize_blocks", "triton", 1) == (0.0, "1 of 2 small shapes", "fp8")
    assert interpreter("quantize_tiles", "mine_interpreted:noisy") == (0.0, "3 of 3 small shapes", "fp8")
    with pytest.raises(Wrong, match="at M=5, K=300: its error is beyond any bound"):
        interpreter("quantize_tiles", "mine_interpreted:wrong")
    with pytest.raises(Wrong, match="ended the interpreter's process with status 7"):
        interpreter("quantize_tiles", "mine_interpreted:dies")
    with pytest.raises(Wrong, match="has no 'absent'"):
        interpreter("quantize_tiles", "mine_interpreted:absent")
