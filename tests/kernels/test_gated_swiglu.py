"""The weighted activation's backward: autograd's own in float64, zeros in padding."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels.gated_swiglu import gated_swiglu_backward, reference
from v3bench.kernels.swiglu import reference as swiglu
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.check import poisoned

CONFIG = {"ROWS": 4, "COLUMNS": 32, "num_warps": 4}
PAIRS = torch.tensor([4, 0, -1, 2, -1, 5, -1], dtype=torch.int32)  # choices 1 and 3 have no row


def test_the_definition_is_autograds() -> None:
    h, dz, gates = torch.randn(7, 20, dtype=torch.float64), torch.randn(7, 10, dtype=torch.float64), torch.rand(6)
    leaves = h.requires_grad_(), gates.double().requires_grad_()
    weight = leaves[1][PAIRS.long().clamp(min=0)] * (PAIRS >= 0)
    z = weight[:, None] * swiglu(h)
    want = torch.autograd.grad(z, leaves, dz)
    got = reference(h.detach(), dz, gates.double(), PAIRS)
    torch.testing.assert_close(got, (want[0], z.detach(), want[1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_agrees_with_float64_and_ignores_padding(dtype: torch.dtype) -> None:
    h, dz, gates = torch.randn(7, 140).to(dtype), torch.randn(7, 70).to(dtype), torch.rand(6)
    want = reference(h.double(), dz.double(), gates.double(), PAIRS)
    h[PAIRS < 0], dz[PAIRS < 0] = float("nan"), float("inf")
    with poisoned():
        d_gate_up, z, d_gates = gated_swiglu_backward(h, dz, gates, PAIRS, config=CONFIG)
    # Rounded once; in float32 some ten operations and sums of 70.
    roundings = 1 if dtype == torch.bfloat16 else 10
    for got, wanted in ((d_gate_up, want[0]), (z, want[1])):
        assert (got[PAIRS < 0] == 0).all()
        there = PAIRS >= 0
        assert rounding_error(got[there], wanted[there], dtype, roundings) <= 1
    torch.testing.assert_close(d_gates.double(), want[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pair", [6, 2**31 - 1])
def test_a_choice_that_is_not_there_makes_its_row_nan_and_is_not_written(pair: int) -> None:
    h, dz, room, pairs = torch.randn(7, 20), torch.randn(7, 10), torch.rand(9), PAIRS.clone()
    pairs[0] = pair
    d_gate_up, z, d_gates = gated_swiglu_backward(h, dz, room[:6], pairs, config=CONFIG)
    want = reference(h[1:], dz[1:], room[:6], pairs[1:])
    assert d_gate_up[0].isnan().all()
    assert z[0].isnan().all()
    torch.testing.assert_close((d_gate_up[1:], z[1:], d_gates), want)


def test_bad_input_is_one_clear_error() -> None:
    h, dz, gates = torch.randn(7, 24), torch.randn(7, 10), torch.rand(6)
    with pytest.raises(ValueError, match=r"gated_swiglu_backward: gate_up has shape \(7, 24\), expected \(7, 20\)"):
        gated_swiglu_backward(h, dz, gates, PAIRS, config=CONFIG)
    with pytest.raises(ValueError, match="gates is float64, expected float32"):
        gated_swiglu_backward(h[:, :20].contiguous(), dz, gates.double(), PAIRS, config=CONFIG)
