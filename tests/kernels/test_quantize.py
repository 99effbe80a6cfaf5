"""Quantisers: kernels give the definition's bits; what is not finite or not there spoils nothing else."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels import block_quant, dequantize, quantize
from v3bench.suite.trials.check import check, poisoned, seeded
from v3bench.suite.trials.registry import load

CONFIG = {"ROWS": 4, "num_warps": 4}
CASES = [
    (op, shape)
    for op in ("quantize_tiles", "quantize_blocks", "dequantize_tiles", "dequantize_blocks")
    for shape in load(op).small
]


@pytest.mark.parametrize(("op", "shape"), CASES, ids=str)
def test_equals_the_definition_bit_for_bit(op: str, shape: dict[str, int]) -> None:
    trial = load(op)
    inputs = seeded(trial, shape, "cpu")
    assert check(trial, inputs, lambda **given: trial.ours(**given, config=trial.small_config)) == 0


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("clamp", [quantize.ACTIVATION, quantize.GUARD])
def test_every_magnitude_and_every_spoiled_tile(power_of_two: bool, clamp: float) -> None:
    x = torch.randn(40, 300) * torch.exp2(torch.arange(-60, 20, 2).float())[:, None]
    x[0], x[3, 5], x[4, 299], x[5, 130] = 0, float("nan"), float("inf"), -float("inf")
    want = quantize.reference_tiles(x, clamp=clamp, power_of_two=power_of_two)
    with poisoned():
        codes, scales = quantize.quantize_tiles(x, clamp=clamp, power_of_two=power_of_two, config=CONFIG)
    assert torch.equal(scales.nan_to_num(-1), want[1].nan_to_num(-1))
    assert torch.equal(codes.float().nan_to_num(-999), want[0].float().nan_to_num(-999))
    back = dequantize.reference_tiles(codes, scales, torch.float32)
    spoiled = torch.zeros(40, 3, dtype=torch.bool)
    spoiled[3, 0] = spoiled[4, 2] = spoiled[5, 1] = True
    assert torch.equal(back.isnan(), spoiled.repeat_interleave(128, 1)[:, :300])
    if clamp == quantize.GUARD:  # no tile is flushed: each keeps e4m3's three bits at its own magnitude
        sound = ~spoiled.any(1)
        assert ((back - x)[sound].norm(dim=1) <= 0.04 * x[sound].norm(dim=1)).all()


def test_a_large_clamp_flushes_small_gradients() -> None:
    x = torch.randn(8, 128) * 1e-9
    codes, scales = quantize.quantize_tiles(x, config=CONFIG)
    assert (dequantize.reference_tiles(codes, scales, torch.float32) - x).norm() > 0.1 * x.norm()


def test_power_of_two_scales_are_powers_of_two_and_never_saturate() -> None:
    x = torch.randn(64, 256) * torch.randn(64, 1).exp()
    codes, scales = quantize.quantize_tiles(x, power_of_two=True, config=CONFIG)
    assert (scales.log2() == scales.log2().round()).all()
    assert (scales >= quantize.reference_tiles(x)[1]).all()
    assert codes.float().abs().max() <= 448


def test_a_stack_is_quantised_matrix_by_matrix() -> None:
    w = torch.randn(3, 130, 200)
    codes, scales = quantize.quantize_blocks(w, config={"num_warps": 4})
    for e in range(3):
        want = quantize.reference_blocks(w[e])
        assert torch.equal(codes[e].float(), want[0].float())
        assert torch.equal(scales[e], want[1])
    back = block_quant.dequantize(codes[0], scales[0], torch.float32)
    assert (back - w[0]).norm() < 0.04 * w[0].norm()


def test_blocks_of_another_size_are_dequantised() -> None:
    codes, scales = quantize.reference_tiles(torch.randn(9, 256))
    got = dequantize.dequantize_blocks(codes, scales, torch.float32, (1, 128), config=CONFIG)
    assert torch.equal(got, block_quant.reference(codes, scales, torch.float32, (1, 128)))


@pytest.mark.parametrize("op", ["dequantize_tiles", "dequantize_blocks"])
def test_values_are_no_codes_and_no_integers(op: str) -> None:
    codes = torch.zeros(1, 128).to(quantize.FP8)
    for dtype in (torch.int32, quantize.FP8):
        with pytest.raises(ValueError, match=f"{op}: dtype is .*, expected bfloat16 or float16 or float32"):
            getattr(dequantize, op)(codes, torch.ones(1, 1), dtype, config=CONFIG)


def test_scales_are_stored_by_column_for_the_gemm() -> None:
    _, scales = quantize.quantize_tiles(torch.randn(5, 256), config=CONFIG)
    assert scales.stride() == (1, 8)


@pytest.mark.parametrize(
    ("x", "clamp", "message"),
    [
        (torch.zeros(2, 128, dtype=torch.int32), 1e-4, "quantize_tiles: x is int32, expected bfloat16"),
        (torch.zeros(128), 1e-4, r"quantize_tiles: x has shape \(128,\), expected \(any, any\)"),
        (torch.zeros(128, 128).T[:, ::2], 1e-4, "the last dimension must be dense"),
        (torch.zeros(2, 128), 0.0, "clamp is 0.0"),
        (torch.zeros(2, 128), float("nan"), "clamp is nan"),
    ],
)
def test_bad_input_is_one_clear_error(x: torch.Tensor, clamp: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize.quantize_tiles(x, clamp=clamp, config=CONFIG)


@pytest.mark.parametrize("shape", [(0, 128), (3, 0)])
def test_an_empty_tensor_gives_an_empty_result(shape: tuple[int, int]) -> None:
    codes, scales = quantize.quantize_tiles(torch.zeros(shape), config=CONFIG)
    assert codes.shape == shape
    assert scales.shape == (shape[0], -(-shape[1] // 128))


def test_meta_tensors_give_shapes_without_work() -> None:
    codes, scales = quantize.quantize_tiles(torch.empty(4096, 7168, device="meta", dtype=torch.bfloat16), config=CONFIG)
    assert codes.shape == (4096, 7168)
    assert scales.shape == (4096, 56)
