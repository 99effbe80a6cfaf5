"""Distinct n-grams of what was generated."""

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.mtp.repetition import distinct


def test_by_hand():
    assert distinct([1, 2, 3, 1, 2, 3, 1]) == 3 / 5  # 123 231 312 123 231
    assert distinct([1, 2, 3, 4, 5]) == 1.0
    assert distinct([7] * 12) == 1 / 10
    assert distinct([1, 2, 1, 2], n=2) == 2 / 3


def test_order_counts():
    assert distinct([1, 2, 3, 2, 1]) == 1.0  # 123 232 321 are different though their tokens are not


def test_too_few_tokens():
    with pytest.raises(BadInput, match="2 tokens; expected at least 3"):
        distinct([1, 2])
