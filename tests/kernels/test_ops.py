"""Sets of operations are values: two of them live in one process and agree."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest
from v3bench.kernels.ops import REFERENCE, TORCH


def test_both_sets_name_every_operation() -> None:
    for ops in (TORCH, REFERENCE):
        assert all(callable(getattr(ops, f.name)) for f in fields(ops) if f.name != "name")
    assert TORCH.name != REFERENCE.name


def test_a_set_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TORCH.name = "other"  # type: ignore[misc]
