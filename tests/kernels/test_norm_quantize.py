"""RMSNorm with codes: each code a nearest one, the sum to the bit, no row spoils another."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels import dequantize, norm, norm_quantize, quantize
from v3bench.suite.trials.check import check, poisoned, seeded
from v3bench.suite.trials.coded import codes_error
from v3bench.suite.trials.registry import load

CONFIG = {"num_warps": 4}
OPS = ("rms_norm_quantize", "add_rms_norm_quantize")
CASES = [(op, shape) for op in OPS for shape in load(op).small]


@pytest.mark.parametrize(("op", "shape"), CASES, ids=str)
def test_equals_the_oracle(op: str, shape: dict[str, int]) -> None:
    trial = load(op)
    inputs = seeded(trial, shape, "cpu")
    assert check(trial, inputs, lambda **given: trial.ours(**given, config=CONFIG)) <= 1


@pytest.mark.parametrize("op", OPS)
def test_the_definition_passes_the_same_bar(op: str) -> None:
    trial = load(op)
    inputs = seeded(trial, trial.small[1], "cpu")
    reference = norm_quantize.reference if op == OPS[0] else norm_quantize.reference_add
    assert check(trial, inputs, reference) <= 1


def test_the_bar_sees_one_code_a_step_away_and_a_scale_a_little_off() -> None:
    values = torch.randn(4, 256, dtype=torch.float64)
    codes, scales = quantize.reference_tiles(values)
    assert codes_error(codes, scales, values) <= 1
    moved = codes.view(torch.uint8).clone()
    moved[2, 7] += 1
    assert codes_error(moved.view(codes.dtype), scales, values) > 100
    assert codes_error(codes, scales * (1 + 2**-16), values) > 10
    rounded = quantize.reference_tiles(values.bfloat16())
    assert codes_error(*rounded, values) > 100  # what rounding to bfloat16 in between would do


def test_values_of_every_magnitude_are_held_to_half_a_step() -> None:
    values = torch.randn(8, 128, dtype=torch.float64) * torch.exp2(-torch.arange(128) / 4.0)
    assert codes_error(*quantize.reference_tiles(values), values) <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_normalised_rows_besides(dtype: torch.dtype) -> None:
    x, residual, weight = torch.randn(3, 300).to(dtype), torch.randn(3, 300).bfloat16(), torch.randn(300)
    with poisoned():
        alone = norm_quantize.rms_norm_quantize(x, weight, 1e-6, rows=True, config=CONFIG)
        added = norm_quantize.add_rms_norm_quantize(x, residual, weight, 1e-6, rows=True, config=CONFIG)
    want = norm.reference(x.double(), weight.double(), 1e-6)
    torch.testing.assert_close(alone[2].double(), want, rtol=torch.finfo(dtype).eps * 2, atol=0)
    assert alone[2].dtype == added[3].dtype == dtype
    assert torch.equal(added[2], (x.float() + residual.float()).bfloat16())
    want = norm.reference(added[2].double(), weight.double(), 1e-6)
    torch.testing.assert_close(added[3].double(), want, rtol=torch.finfo(dtype).eps * 2, atol=0)
    assert codes_error(added[0], added[1], want) <= 1


def test_one_over_rms_besides() -> None:
    x, weight = torch.randn(3, 300), torch.randn(300)
    with poisoned():
        codes, scales, rstd = norm_quantize.rms_norm_quantize(x, weight, 1e-6, rstd=True, config=CONFIG)
    torch.testing.assert_close(rstd.double(), (x.double().square().mean(1) + 1e-6).rsqrt(), rtol=1e-6, atol=0)
    assert codes_error(codes, scales, norm.reference(x.double(), weight.double(), 1e-6)) <= 1
    assert len(norm_quantize.rms_norm_quantize(x, weight, 1e-6, rows=True, rstd=True, config=CONFIG)) == 4


def test_strided_rows_and_a_clamp_for_gradients() -> None:
    wide = torch.randn(4, 640)
    x = wide[:, 128:384]
    codes, scales = norm_quantize.rms_norm_quantize(
        x, torch.full((256,), 1e-7), 0.0, clamp=quantize.GUARD, config=CONFIG
    )
    want = norm.reference(x.double(), torch.full((256,), 1e-7, dtype=torch.float64), 0.0)
    back = dequantize.reference_tiles(codes, scales, torch.float32).double()
    assert ((back - want).norm(dim=1) < 0.04 * want.norm(dim=1)).all()
    assert scales.stride() == (1, 4)


def test_nan_and_infinity_spoil_their_row_only_and_zero_is_zero() -> None:
    x, weight = torch.randn(5, 256), torch.ones(256)
    clean = norm_quantize.rms_norm_quantize(x, weight, 1e-6, config=CONFIG)
    bad = x.clone()
    bad[1, 3], bad[2, 200], bad[3] = float("nan"), float("inf"), 0
    codes, scales = norm_quantize.rms_norm_quantize(bad, weight, 1e-6, config=CONFIG)
    for row in (0, 4):
        assert torch.equal(codes[row].float(), clean[0][row].float())
        assert torch.equal(scales[row], clean[1][row])
    back = dequantize.reference_tiles(codes, scales, torch.float32)
    assert back[1].isnan().all()
    assert back[2, 128:].isnan().all()
    assert (back[2, :128] == 0).all()  # over an infinite rms, as in the definition
    assert (back[3] == 0).all()


@pytest.mark.parametrize("shape", [(0, 128), (3, 0)])
def test_an_empty_tensor_gives_an_empty_result(shape: tuple[int, int]) -> None:
    made = norm_quantize.add_rms_norm_quantize(
        torch.zeros(shape), torch.zeros(shape), torch.ones(shape[1]), 1e-6, config=CONFIG
    )
    assert [tuple(t.shape) for t in made] == [shape, (shape[0], -(-shape[1] // 128)), shape]


def test_meta_tensors_give_shapes_without_work() -> None:
    x = torch.empty(4096, 7168, device="meta", dtype=torch.bfloat16)
    codes, scales, rows = norm_quantize.rms_norm_quantize(x, x[0], 1e-6, rows=True, config=CONFIG)
    assert codes.shape == rows.shape == (4096, 7168)
    assert scales.shape == (4096, 56)


X, WEIGHT = torch.zeros(2, 128), torch.zeros(128)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": X.double()}, "add_rms_norm_quantize: x is float64, expected bfloat16 or float16 or float32"),
        ({"x": X[0]}, r"x has shape \(128,\), expected \(any, any\)"),
        ({"residual": X[:1]}, r"residual has shape \(1, 128\), expected \(2, 128\)"),
        ({"residual": X.int()}, "residual is int32"),
        ({"weight": WEIGHT[:5]}, r"weight has shape \(5,\), expected \(128\)"),
        ({"x": torch.zeros(2, 256)[:, ::2]}, "the last dimension must be dense"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"eps": -1.0}, "eps is -1.0"),
        ({"clamp": 0.0}, "clamp is 0.0"),
        (
            {"x": torch.zeros(1, 20000), "residual": torch.zeros(1, 20000), "weight": torch.zeros(20000)},
            "at most 16384",
        ),
    ],
)
def test_bad_input_is_one_clear_error(given: dict[str, object], message: str) -> None:
    arguments = {"x": X, "residual": X, "weight": WEIGHT, "eps": 1e-6, "config": CONFIG} | given
    with pytest.raises(ValueError, match=message):
        norm_quantize.add_rms_norm_quantize(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("D", [512, 1536, 7168])
@pytest.mark.parametrize("M", [1, 3, 64, 1025, 4096, 16384])
def test_full_shapes_on_a_gpu(op: str, M: int, D: int) -> None:
    trial = load(op)
    assert check(trial, seeded(trial, {"M": M, "D": D}, "cuda"), trial.ours) <= 1
