"""SwiGLU: gate half first."""

from __future__ import annotations

import torch
from v3bench.kernels.swiglu import reference, swiglu


def test_launcher_equals_the_definition() -> None:
    gate_up = torch.randn(3, 2, 14, dtype=torch.float64)
    torch.testing.assert_close(swiglu(gate_up), reference(gate_up))


def test_definition_rounds_bfloat16_once() -> None:
    gate_up = torch.randn(64, 32).bfloat16()
    assert torch.equal(reference(gate_up), reference(gate_up.double()).bfloat16())


def test_gate_comes_first() -> None:
    # A gate of -inf shuts the channel; an "up" of -inf would not.
    gate_up = torch.tensor([[-1e9, 0.0, 5.0, 7.0]])
    assert torch.equal(reference(gate_up), torch.zeros(1, 2))
    gate, up = torch.tensor(2.0), torch.tensor(3.0)
    want = gate / (1 + torch.exp(-gate)) * up
    torch.testing.assert_close(reference(torch.stack((gate, up))), want.view(1))
