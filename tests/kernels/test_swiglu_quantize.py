"""SwiGLU with codes: each code a nearest one, weights before the codes, rows that are not there left alone."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels import dequantize, swiglu, swiglu_quantize
from v3bench.suite.trials.check import check, poisoned, seeded
from v3bench.suite.trials.coded import codes_error
from v3bench.suite.trials.registry import load

CONFIG = {"ROWS": 2, "num_warps": 1}


@pytest.mark.parametrize("shape", load("swiglu_quantize").small, ids=str)
def test_equals_the_oracle_and_so_does_the_definition(shape: dict[str, int]) -> None:
    trial = load("swiglu_quantize")
    inputs = seeded(trial, shape, "cpu")
    assert check(trial, inputs, lambda **given: trial.ours(**given, config=CONFIG)) <= 1
    assert check(trial, inputs, swiglu_quantize.reference) <= 1


def test_a_row_weight_scales_what_is_quantised() -> None:
    gate_up, weights = torch.randn(5, 400).bfloat16(), torch.randn(5)
    with poisoned():
        codes, scales = swiglu_quantize.swiglu_quantize(gate_up, weights, config=CONFIG)
    want = swiglu.reference(gate_up.double()) * weights.double()[:, None]
    assert codes_error(codes, scales, want) <= 1
    assert codes_error(*swiglu_quantize.reference(gate_up, weights), want) <= 1


def test_a_gate_is_picked_by_the_rows_choice_and_padding_is_zero() -> None:
    gate_up, gates = torch.randn(6, 256), torch.rand(2, 2)
    pairs = torch.tensor([3, -1, 0, 1, -1, 2], dtype=torch.int32)
    gate_up[1] = float("nan")  # padding may hold anything
    with poisoned():
        codes, scales = swiglu_quantize.swiglu_quantize(gate_up, gates.flatten(), pairs, config=CONFIG)
    there = pairs >= 0
    want = swiglu.reference(gate_up.double()) * gates.flatten().double()[pairs.long()][:, None]
    assert codes_error(codes[there], scales[there], want[there]) <= 1
    assert not codes.float()[~there].any()
    reference = swiglu_quantize.reference(gate_up, gates.flatten(), pairs)
    assert codes_error(reference[0][there], reference[1][there], want[there]) <= 1
    assert torch.equal(reference[1][~there], scales[~there])


def test_a_stack_writes_only_the_rows_that_are_there() -> None:
    gate_up, masked_m = torch.randn(4, 5, 300), torch.tensor([2, 0, 5, 9], dtype=torch.int32)
    gate_up[0, 2:], gate_up[1] = float("nan"), float("inf")  # beyond: anything
    want = swiglu_quantize.reference(gate_up, masked_m=masked_m)
    with poisoned():
        codes, scales = swiglu_quantize.swiglu_quantize(gate_up, masked_m=masked_m, config=CONFIG)
    assert codes.shape == (4, 5, 150)
    assert scales.shape == (4, 5, 2)
    for e, rows in enumerate([2, 0, 5, 5]):
        assert torch.equal(codes[e, :rows].float(), want[0][e, :rows].float())
        torch.testing.assert_close(scales[e, :rows], want[1][e, :rows], rtol=1e-6, atol=0)
        assert (codes[e, rows:].view(torch.uint8) == 0xFF).all()  # the poison: nobody wrote there
    assert scales.stride() == (5, 1, 20)  # by column over all rows, as the masked GEMM reads them


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # numpy's, under the interpreter
def test_every_gate_and_every_spoiled_tile() -> None:
    gate = torch.linspace(-110, 110, 256)
    gate_up = torch.cat([gate, torch.full((256,), 2.0)])[None].repeat(4, 1)
    gate_up[1, 3], gate_up[2, 256 + 200], gate_up[3] = float("nan"), float("inf"), 0
    codes, scales = swiglu_quantize.swiglu_quantize(gate_up, config=CONFIG)
    want = swiglu.reference(gate_up[:1].double())
    assert codes_error(codes[:1], scales[:1], want) <= 1
    back = dequantize.reference_tiles(codes, scales, torch.float32)
    spoiled = torch.zeros(4, 2, dtype=torch.bool)
    spoiled[1, 0] = spoiled[2, 1] = True
    assert torch.equal(back.isnan(), spoiled.repeat_interleave(128, 1))
    assert (back[3] == 0).all()


@pytest.mark.parametrize("shape", [(0, 256), (3, 0)])
def test_an_empty_tensor_gives_an_empty_result(shape: tuple[int, int]) -> None:
    codes, scales = swiglu_quantize.swiglu_quantize(torch.zeros(shape), config=CONFIG)
    assert codes.shape == (shape[0], shape[1] // 2)
    assert scales.shape == (shape[0], shape[1] // 256)


@pytest.mark.parametrize("pair", [3, 2**31 - 1])
def test_a_weight_that_is_not_there_makes_its_row_nan(pair: int) -> None:
    gate_up, weights = torch.randn(4, 256), torch.tensor([float("inf"), 1.0, 2.0, 3.0, float("inf")])[1:4]
    pairs = torch.tensor([0, pair, -1, 2], dtype=torch.int32)
    codes, scales = swiglu_quantize.swiglu_quantize(gate_up, weights, pairs, config=CONFIG)
    want = swiglu_quantize.reference(gate_up[::2], weights, pairs[::2])
    assert scales[1].isnan().all()
    assert torch.equal(codes[::2].float(), want[0].float())
    assert torch.equal(scales[::2], want[1])


def test_meta_tensors_give_shapes_without_work() -> None:
    gate_up = torch.empty(8, 512, 4096, device="meta", dtype=torch.bfloat16)
    masked_m = torch.empty(8, dtype=torch.int32, device="meta")
    codes, scales = swiglu_quantize.swiglu_quantize(gate_up, masked_m=masked_m, config=CONFIG)
    assert codes.shape == (8, 512, 2048)
    assert scales.shape == (8, 512, 16)


X, STACK = torch.zeros(4, 256), torch.zeros(2, 4, 256)
WEIGHTS, PAIRS, MASK = torch.zeros(4), torch.zeros(4, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gate_up": X.double()}, "swiglu_quantize: gate_up is float64, expected bfloat16"),
        ({"gate_up": STACK}, r"gate_up has shape \(2, 4, 256\), expected \(any, any\)"),
        ({"gate_up": X[:, :255]}, "gate_up has 255 columns, expected a gate half and an up half"),
        ({"gate_up": X, "weights": WEIGHTS[:3]}, r"weights has shape \(3,\), expected \(4\)"),
        ({"gate_up": X, "weights": WEIGHTS.double()}, "weights is float64, expected float32"),
        ({"gate_up": X, "pairs": PAIRS}, "weights is None"),
        ({"gate_up": X, "weights": WEIGHTS, "pairs": PAIRS.long()}, "pairs is int64, expected int32"),
        ({"gate_up": STACK, "masked_m": MASK.long()}, "masked_m is int64, expected int32"),
        ({"gate_up": STACK, "masked_m": MASK[:1]}, r"masked_m has shape \(1,\), expected \(2\)"),
        ({"gate_up": STACK, "masked_m": MASK, "weights": WEIGHTS}, "not with masked_m"),
        ({"gate_up": STACK[:, ::2], "masked_m": MASK}, "expected a contiguous tensor"),
        ({"gate_up": X, "clamp": -1.0}, "clamp is -1.0"),
    ],
)
def test_bad_input_is_one_clear_error(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swiglu_quantize.swiglu_quantize(**given, config=CONFIG)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("F", [2048, 18432])
@pytest.mark.parametrize("M", [1, 3, 64, 1025, 4096, 16384])
def test_full_shapes_on_a_gpu(M: int, F: int) -> None:
    trial = load("swiglu_quantize")
    assert check(trial, seeded(trial, {"M": M, "F": F}, "cuda"), trial.ours) <= 1
