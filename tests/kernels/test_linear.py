"""Every form of the product is one, in every number of rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from v3bench.kernels import linear as module
from v3bench.kernels.linear import BAND, FEW, LARGE, linear, reference, turned, widened


@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_definition(bias: bool) -> None:
    x, w = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    b = torch.randn(7, dtype=torch.float64) if bias else None
    torch.testing.assert_close(linear(x, w, b), reference(x, w, b))
    assert torch.allclose(reference(x, w, b)[1, 2, 4], x[1, 2] @ w[4] + (0 if b is None else b[4]))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [(2,), (1, 3), (2, 1, 4)])
def test_few_rows_of_a_large_weight(bias: bool, rows: tuple[int, ...]) -> None:
    x, w = torch.randn(*rows, 1024), torch.randn(LARGE // 1024, 1024)
    b = torch.randn(len(w)) if bias else None
    with torch.no_grad():
        found = linear(x, w, b)
    assert found.is_contiguous()
    exact = reference(x.double(), w.double(), None if b is None else b.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned(x, w, b), found)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [7, BAND // 4 + 1])
def test_widened_products_are_rounded_once(bias: bool, width: int) -> None:
    x, w = torch.randn(2, 3, 10).bfloat16(), torch.randn(width, 10).bfloat16()
    b = torch.randn(width).bfloat16() if bias else None
    exact = reference(x.double(), w.double(), None if b is None else b.double())
    found = widened(x, w, b)
    assert found.dtype == torch.bfloat16
    # Half a step of bfloat16's eight digits, and the errors of a float32 sum of ten.
    assert ((found.double() - exact).abs() <= exact.abs() * 2.0**-8 + 1e-5).all()


def test_bfloat16_is_widened_only_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, large = (torch.randn(*shape).bfloat16() for shape in ((FEW + 1, 64), (3, 64), (BAND // 64 + 1, 64)))
    seen: list[Tensor] = []

    def watched(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        seen.append(x)
        return widened(x, w, b)

    monkeypatch.setattr(module, "widened", watched)
    tried = [(True, 3, w, False), (True, FEW + 1, large, False)]
    tried += [(True, 2, w, False), (True, FEW, large, False), (False, 3, w, False), (True, 3, w, True)]
    for lacks, rows, weight, grad in tried:
        monkeypatch.setattr(module, "lacks_bf16", lambda lacks=lacks: lacks)
        with torch.set_grad_enabled(grad):
            linear(x[:rows], weight)
    assert [len(one) for one in seen] == [3, FEW + 1]


def test_few_rows_are_turned_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        seen.append(len(x))
        return turned(x, w, b)

    monkeypatch.setattr(module, "turned", watched)
    large = torch.zeros(LARGE // 64, 64)
    for rows, weight, grad in (
        (2, large, False), (FEW, large, False),
        (1, large, False), (FEW + 1, large, False), (2, large[1:], False), (2, large, True), (2, large.double(), False),
    ):  # fmt: skip
        with torch.set_grad_enabled(grad):
            linear(torch.zeros(rows, 64, dtype=weight.dtype), weight)
    assert seen == [2, FEW]


def test_nothing_in_nothing_out() -> None:
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            assert linear(torch.zeros(2, 0, dtype=dtype), torch.zeros(3, 0, dtype=dtype)).tolist() == [[0.0] * 3] * 2
            assert linear(torch.zeros(0, 4, dtype=dtype), torch.zeros(3, 4, dtype=dtype)).shape == (0, 3)
