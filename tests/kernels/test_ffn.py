"""The dense network: in float64 and in FP8, there step by step against float64 of the same codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from v3bench.kernels import (
    ffn,
    fp8_ffn,
    fp8_gemm,
    fp8_linear,
    norm,
    norm_quantize,
    quantize,
    swiglu,
    swiglu_quantize,
    tables,
)
from v3bench.suite.meter.closeness import rounding_error

from .test_norm_linear import CONFIGS, blocks, coded, off

OWN: dict[str, Any] = CONFIGS | {"swiglu_quantize": {"ROWS": 4, "num_warps": 4}}
D, F, EPS = 208, 144, 1e-3  # neither a multiple of 128
WIDE: Any = {"out_dtype": torch.float64, "compute": torch.float64}
NAMES = ("x", "w_gate_up", "w_down", "b_gate_up", "b_down", "norm's weight")
OPTIONS = [(bias, before) for bias in (False, True) for before in (False, True)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that fit the shapes here, in place of the launch tables'."""
    monkeypatch.setattr(tables, "choose", lambda op, device, **shape: OWN[op])


def inputs(*lead: int, bias: bool = True, before: bool = True, dtype: torch.dtype = torch.float32) -> list[Any]:
    """Arguments of the network, leaves that want a gradient; None where one is left out."""
    x, gate_up, down = torch.randn(*lead, D), torch.randn(2 * F, D) * D**-0.5, torch.randn(D, F) * F**-0.5
    biases = [torch.randn(2 * F) * 0.3, torch.randn(D) * 0.3] if bias else [None, None]
    weight = 1 + 0.3 * torch.randn(D) if before else None
    made = [t if t is None else t.to(dtype).requires_grad_() for t in (x, gate_up, down, *biases, weight)]
    return [*made[:5], None if made[5] is None else (made[5], EPS)]


def leaves_of(given: list[Any]) -> dict[str, Tensor]:
    """By name what has a gradient."""
    flat = [*given[:5], given[5] and given[5][0]]
    return {name: t for name, t in zip(NAMES, flat, strict=True) if t is not None}


@pytest.mark.parametrize(("bias", "before"), OPTIONS)
def test_plain_forms_and_gradients_are_one_function_in_float64(bias: bool, before: bool) -> None:
    given = inputs(2, 3, bias=bias, before=before, dtype=torch.float64)
    want, got = ffn.reference(*given), ffn.ffn(*given)
    assert got.shape == (2, 3, D)
    torch.testing.assert_close(got, want)
    x, gate_up, down, b_gate_up, b_down, _ = given
    n = norm.reference(x, *given[5]) if before else x
    h = n @ gate_up.T + (b_gate_up if bias else 0.0)
    gate, up = h[..., :F], h[..., F:]
    torch.testing.assert_close(want, (gate * gate.sigmoid() * up) @ down.T + (b_down if bias else 0.0))
    leaves, grad = list(leaves_of(given).values()), torch.randn_like(want)
    for a, b in zip(*(torch.autograd.grad(y, leaves, grad) for y in (got, want)), strict=True):
        torch.testing.assert_close(a, b)


def stepwise(given: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The first product's input as rows, SwiGLU's input, the result: from the definitions, products in float64."""
    x, gate_up, down, b_gate_up, b_down, before = (t.detach() if isinstance(t, Tensor) else t for t in given)
    rows = x.reshape(-1, D)
    n = rows if before is None else norm.reference(rows.float(), before[0].detach().float(), before[1])
    codes = quantize.reference_tiles(n)
    h = fp8_gemm.reference(*codes, *quantize.reference_blocks(gate_up), **WIDE)
    h = h if b_gate_up is None else h + b_gate_up.double()
    z = swiglu_quantize.reference(h)
    y = fp8_gemm.reference(*z, *quantize.reference_blocks(down), **WIDE)
    return n, h, y if b_down is None else y + b_down.double()


@pytest.mark.parametrize(("bias", "before"), OPTIONS)
def test_fp8_is_the_definitions_step_by_step(bias: bool, before: bool) -> None:
    given = inputs(2, 3, bias=bias, before=before)
    with torch.no_grad():
        got = fp8_ffn.fp8_ffn(*given)
    assert (got.shape, got.dtype) == ((2, 3, D), torch.float32)
    # Nothing is rounded between the steps but to codes; one that lies on a rounding's edge may fall either way.
    assert rounding_error(got.view(-1, D), stepwise(given)[2], torch.bfloat16) <= 0.5
    assert rounding_error(fp8_ffn.reference(*given).detach().view(-1, D), stepwise(given)[2], torch.bfloat16) <= 0.5
    assert torch.equal(fp8_ffn.fp8_ffn(*given).detach(), got)  # training makes the same bits


@pytest.mark.parametrize("lead", [(1,), ()], ids=str)
def test_fp8_of_one_token_in_bfloat16(lead: tuple[int, ...]) -> None:
    given = inputs(*lead, dtype=torch.bfloat16)
    got = fp8_ffn.fp8_ffn(*given)
    assert (got.shape, got.dtype) == ((*lead, D), torch.bfloat16)
    # h is rounded, twice with its bias, and z's codes, each up to 2^-4, follow it.
    assert rounding_error(got.detach().view(-1, D), stepwise(given)[2], torch.bfloat16, 16) <= 1


@pytest.mark.parametrize(("bias", "before"), OPTIONS)
def test_fp8_gradients_are_the_definitions_step_by_step(bias: bool, before: bool) -> None:
    given = inputs(2, 3, bias=bias, before=before)
    leaves, grad = leaves_of(given), torch.randn(2, 3, D)
    found = dict(zip(leaves, torch.autograd.grad(fp8_ffn.fp8_ffn(*given), list(leaves.values()), grad), strict=True))
    n, h, _ = stepwise(given)
    dy, wide = grad.view(6, D), h.clone().requires_grad_()
    z = swiglu.reference(wide)
    dz = coded(dy, quantize.GUARD) @ blocks(given[2])
    (dh,) = torch.autograd.grad(z, wide, dz)
    want = {
        "w_gate_up": coded(dh.T, quantize.GUARD) @ coded(n.T, quantize.ACTIVATION).T,
        "w_down": coded(dy.T, quantize.GUARD) @ coded(z.T, quantize.ACTIVATION).T,
        "b_gate_up": dh.sum(0),
        "b_down": dy.double().sum(0),
        "x": coded(dh, quantize.GUARD) @ blocks(given[1]),
    }
    if before:
        exact = [t.detach().double().requires_grad_() for t in (given[0].view(6, D), given[5][0])]
        want["x"], want["norm's weight"] = torch.autograd.grad(norm.reference(*exact, EPS), exact, want["x"])
    for name, got in found.items():
        assert off(got.view(want[name].shape), want[name]) <= 2e-3, name  # a code that falls the other way


def test_fp8_gradients_are_near_the_exact_ones() -> None:
    given = inputs(40)
    leaves, grad = leaves_of(given), torch.randn(40, D)
    want = torch.autograd.grad(ffn.reference(*given), list(leaves.values()), grad)
    got = torch.autograd.grad(fp8_ffn.fp8_ffn(*given), list(leaves.values()), grad)
    for name, a, b in zip(leaves, got, want, strict=True):
        assert off(a, b.double()) < 0.13, name  # 2.6 % for each e4m3 operand, of which a gradient passes up to six


def test_swiglu_and_its_norm_are_quantised_in_their_own_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(3)
    for module in (fp8_ffn, fp8_linear):
        monkeypatch.setattr(module, "quantize_tiles", lambda *a, **k: pytest.fail("quantised in a pass of its own"))
    with torch.no_grad():
        fp8_ffn.fp8_ffn(*given)
    fp8_ffn.fp8_ffn(*given)


def test_only_the_gradients_asked_for_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(3)
    frozen = [given[0], *(t.detach() for t in given[1:5]), (given[5][0].detach(), EPS)]
    with monkeypatch.context() as patch:
        patch.setattr(fp8_ffn, "weight_gradient", lambda *a: pytest.fail("nobody asked for it"))
        patch.setattr(fp8_linear, "weight_gradient", lambda *a: pytest.fail("nobody asked for it"))
        fp8_ffn.fp8_ffn(*frozen).sum().backward()
    assert given[0].grad is not None
    dy, z = torch.ones(3, D), swiglu.reference(stepwise(given)[1])
    with monkeypatch.context() as patch:
        patch.setattr(fp8_ffn, "input_gradient", lambda *a: pytest.fail("nobody asked for it"))
        only = [t.detach() if isinstance(t, Tensor) else (t[0].detach(), EPS) for t in given]
        only[2] = given[2]
        fp8_ffn.fp8_ffn(*only).sum().backward()
    assert off(given[2].grad, coded(dy.T, quantize.GUARD) @ coded(z.T, quantize.ACTIVATION).T) <= 2e-3


def test_codes_come_from_the_cache_that_is_given() -> None:
    given, cache = inputs(3), fp8_linear.WeightCache()
    with torch.no_grad():
        first = fp8_ffn.fp8_ffn(*given, quantize=cache)
        assert len(cache.kept) == 2
        cache.quantize = lambda w: pytest.fail("made again")
        assert torch.equal(fp8_ffn.fp8_ffn(*given, quantize=cache), first)


def test_no_tokens_and_meta_tensors() -> None:
    given = inputs(2, 0)
    y = fp8_ffn.fp8_ffn(*given)
    y.sum().backward()
    assert y.shape == (2, 0, D)
    assert (given[2].grad == 0).all()
    meta = [t.detach().to("meta").requires_grad_() if isinstance(t, Tensor) else None for t in inputs(2, 3)]
    y = fp8_ffn.fp8_ffn(*meta)
    y.sum().backward()
    assert y.shape == (2, 3, D)
    assert meta[1] is not None
    assert meta[1].grad is not None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, D).half()}, "fp8_ffn: x is float16, expected bfloat16 or float32"),
        ({"x": torch.zeros(2, 192)}, r"fp8_ffn: x has shape \(2, 192\), expected \(any, 208\)"),
        ({"x": torch.tensor(1.0)}, r"fp8_ffn: x has shape \(\), expected \(208\)"),
        ({"w_gate_up": torch.zeros(F, D)}, r"fp8_ffn: w_gate_up has shape \(144, 208\), expected \(288, 208\)"),
        ({"w_down": torch.zeros(D, F).double()}, "fp8_ffn: w_down is float64"),
        (
            {"w_down": torch.zeros(D, 8), "w_gate_up": torch.zeros(16, D), "b_gate_up": None},
            r"fp8_ffn: w_down has shape \(208, 8\), expected positive multiples of 16",
        ),
        (
            {"x": torch.zeros(2, 0), "w_down": torch.zeros(0, F), "w_gate_up": torch.zeros(2 * F, 0)},
            r"fp8_ffn: w_down has shape \(0, 144\), expected positive multiples of 16",
        ),
        ({"b_gate_up": torch.zeros(F)}, r"fp8_ffn: b_gate_up has shape \(144,\), expected \(288\)"),
        ({"b_down": torch.zeros(D).int()}, "fp8_ffn: b_down is int32"),
        ({"norm_before": (torch.zeros(7), EPS)}, r"fp8_ffn: norm_before's weight has shape \(7,\), expected \(208\)"),
        ({"norm_before": (torch.zeros(D), -1.0)}, "eps is -1.0, expected a finite number"),
    ],
)
def test_bad_input_is_one_clear_error(changed: dict[str, Any], message: str) -> None:
    right = {"x": torch.zeros(2, D), "w_gate_up": torch.zeros(2 * F, D), "w_down": torch.zeros(D, F)}
    with pytest.raises(ValueError, match=message):
        fp8_ffn.fp8_ffn(**{**right, **changed})


def test_the_norm_before_is_rms_norm_quantize(monkeypatch: pytest.MonkeyPatch) -> None:
    given, passes = inputs(2), []
    one = norm_quantize.rms_norm_quantize
    monkeypatch.setattr(fp8_ffn, "rms_norm_quantize", lambda *a, **k: passes.append(a) or one(*a, **k))
    with torch.no_grad():
        fp8_ffn.fp8_ffn(*given)
    assert len(passes) == 1
