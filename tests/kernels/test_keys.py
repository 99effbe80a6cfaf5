"""A kernel's key in Triton's cache is the same whatever came before; taken in children, which do not interpret."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from v3bench.kernels import fp8_gemm, keys
from v3bench.kernels.casts import narrow
from v3bench.kernels.fp8_tiles import pinned

CODE = """
import sys
from v3bench.kernels import casts, fp8_gemm, fp8_tiles, keys, quantize
first = {"narrow": casts.narrow, "pinned": fp8_tiles.pinned, "other": quantize.kernel_tiles}
for name in sys.argv[1:]:
    first[name].cache_key
keys.settle(fp8_gemm.kernel)
print(fp8_gemm.kernel.cache_key)
"""


def key(*first: str) -> str:
    """fp8_gemm's key in a process that had the keys of others made before."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-P", "-c", CODE, *first]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_key_does_not_depend_on_what_came_before() -> None:
    assert len({key(), key("pinned"), key("other", "narrow")}) == 1


def test_what_a_kernel_calls_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "keyed", lambda value: hasattr(value, "fn"))
    found: list[Any] = list(keys.calls(fp8_gemm.kernel))
    assert narrow in found
    assert pinned in found


def test_an_interpreted_kernel_is_left_alone() -> None:
    keys.settle(object())
