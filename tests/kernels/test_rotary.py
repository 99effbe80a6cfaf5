"""Rotation in Triton: kernels/rotate.py's operation, bit of rounding for bit, and its gradient."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels import rotary
from v3bench.kernels.rotate import reference
from v3bench.kernels.rotate import rotate as torch_rotate
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.check import poisoned


def turns_of(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    angles = torch.rand(shape, dtype=torch.float64) * 6
    return torch.polar(torch.rand_like(angles) + 0.5, angles).to(dtype.to_complex())


CASES = {
    # name: (shape of x, shape of turns)
    "all heads alike": ((2, 5, 3, 16), (5, 1, 8)),
    "rows at their own positions": ((2, 3, 20, 8), (2, 3, 1, 4)),
    "one key": ((3, 5, 1, 64), (3, 5, 1, 32)),
    "a width that is no power of two": ((1, 4, 2, 24), (4, 1, 12)),
    "each head its own": ((2, 2, 3, 4), (3, 2)),
    "one dimension": ((10,), (5,)),
    "two": ((7, 6), (7, 3)),
    "five": ((2, 2, 3, 2, 4), (3, 1, 2)),
    "five, of which the first turn": ((2, 2, 3, 2, 4), (2, 1, 3, 1, 2)),
    "a pair": ((3, 2), (3, 1)),
}


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_definition(case: str, interleaved: bool) -> None:
    shape, turning = CASES[case]
    turns = turns_of(*turning)
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(shape).to(dtype)
        with poisoned():
            got = rotary.rotate(x, turns, interleaved=interleaved)
        assert got.dtype == dtype
        assert got.is_contiguous()
        want = reference(x.double(), turns.to(torch.complex128), interleaved=interleaved)
        assert rounding_error(got, want, dtype) <= 1
        torch.testing.assert_close(got, torch_rotate(x, turns, interleaved=interleaved))


@pytest.mark.parametrize("interleaved", [True, False])
def test_views_of_any_strides(interleaved: bool) -> None:
    wide, turns = torch.randn(2, 3, 40), turns_of(3, 1, 4)
    for x in (
        wide[..., 7:31].unflatten(-1, (3, 8)),  # cut out of a projection's result, at an odd place
        torch.randn(2, 4, 3, 8).transpose(1, 2),
        torch.randn(2, 3, 8, 4).transpose(2, 3),
        torch.randn(2, 1, 1, 8).expand(2, 3, 4, 8),
    ):
        got = rotary.rotate(x, turns, interleaved=interleaved)
        torch.testing.assert_close(got, reference(x.contiguous(), turns, interleaved=interleaved))
    x, table = torch.randn(2, 3, 4, 8), turns_of(9, 8)
    for some in (table[1:7:2, None, ::2], table[1:7:2, None, 2:6].conj()):
        got = rotary.rotate(x, some, interleaved=interleaved)
        torch.testing.assert_close(got, reference(x, some.resolve_conj(), interleaved=interleaved))


@pytest.mark.parametrize("interleaved", [True, False])
def test_gradients_to_the_second_order(interleaved: bool) -> None:
    x = torch.randn(2, 2, 6, dtype=torch.float64, requires_grad=True)
    turns = turns_of(2, 1, 3, dtype=torch.float64)
    call = lambda x: rotary.rotate(x, turns, interleaved=interleaved)
    assert torch.autograd.gradcheck(call, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, x, fast_mode=True)
    g = torch.randn(2, 2, 6, dtype=torch.float64)
    (got,) = torch.autograd.grad(call(x), x, g)
    torch.testing.assert_close(got, torch_rotate(g, turns.conj().resolve_conj(), interleaved=interleaved))


def test_gradient_of_an_expanded_or_strided_result() -> None:
    x, turns = torch.randn(2, 3, 2, 8, requires_grad=True), turns_of(3, 1, 4)
    for reduce in (lambda y: y.sum(), lambda y: (y.transpose(1, 2).split(5, dim=-1)[1] ** 2).sum()):
        (got,) = torch.autograd.grad(reduce(rotary.rotate(x, turns)), x)
        (want,) = torch.autograd.grad(reduce(reference(x, turns)), x)
        torch.testing.assert_close(got, want)


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    x, turns = torch.randn(2, 3, 2, 8), turns_of(3, 1, 4)
    want = rotary.rotate(x, turns)
    x[0, 1, 1, 2] = float("nan")
    got = rotary.rotate(x, turns)
    assert got.isnan().nonzero().tolist() == [[0, 1, 1, 2], [0, 1, 1, 3]]
    assert torch.equal(got.nan_to_num(0)[1], want[1])


def test_runs_are_bitwise_equal_and_empty_or_meta_tensors_have_shapes() -> None:
    x, turns = torch.randn(2, 3, 2, 8).bfloat16(), turns_of(3, 1, 4)
    assert torch.equal(rotary.rotate(x, turns), rotary.rotate(x, turns))
    assert rotary.rotate(torch.zeros(0, 3, 2, 8), turns).shape == (0, 3, 2, 8)
    assert rotary.rotate(torch.zeros(2, 0, 2, 8), turns[:0]).shape == (2, 0, 2, 8)
    assert rotary.rotate(x.to("meta"), turns.to("meta")).shape == x.shape


@pytest.mark.parametrize(
    ("x", "turns", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.int32), turns_of(2), "rotate: x is int32, expected bfloat16"),
        (torch.zeros(2, 4), torch.zeros(2), "rotate: turns is float32, expected complex64"),
        (torch.zeros(2, 5), turns_of(2), r"x has shape \(2, 5\), expected \(..., R\) with R even"),
        (torch.zeros(2, 4), turns_of(3, 2), r"turns has shape \(3, 2\), expected one that broadcasts to \(2, 2\)"),
        (torch.zeros(2, 4), turns_of(2, 1), r"turns has shape \(2, 1\)"),
        (torch.zeros(4), turns_of(2, 2), r"turns has shape \(2, 2\)"),
        (torch.zeros(2, 4), turns_of(2).requires_grad_(), "turns requires a gradient"),
        (torch.zeros(2, 4, device="meta"), turns_of(2), "tensors lie on meta and cpu"),
    ],
)
def test_bad_input_is_one_clear_error(x: torch.Tensor, turns: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rotary.rotate(x, turns)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(
    ("B", "S", "H", "R"), [(1, 4096, 128, 64), (4, 4096, 1, 64), (64, 1, 40, 128), (2, 8192, 72, 128)]
)
def test_equals_the_definition_at_the_shapes_of_models(B: int, S: int, H: int, R: int, interleaved: bool) -> None:
    x = torch.randn(B, S, H + 3, R, device="cuda").bfloat16()[:, :, 3:]
    turns = turns_of(S, 1, R // 2).cuda()
    with poisoned():
        got = rotary.rotate(x, turns, interleaved=interleaved)
    assert rounding_error(got, reference(x.float(), turns, interleaved=interleaved), torch.bfloat16) <= 1
