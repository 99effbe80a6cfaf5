"""The plain product and torch's are one."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels.linear import linear, reference


@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_definition(bias: bool) -> None:
    x, w = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    b = torch.randn(7, dtype=torch.float64) if bias else None
    torch.testing.assert_close(linear(x, w, b), reference(x, w, b))
    assert torch.allclose(reference(x, w, b)[1, 2, 4], x[1, 2] @ w[4] + (0 if b is None else b[4]))
