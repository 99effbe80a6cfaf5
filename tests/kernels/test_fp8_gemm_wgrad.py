"""FP8 weight gradients: the float64 product of the same operands; experts do not mix; what is wrong is not a number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from v3bench.kernels import checks, fp8_gemm_wgrad, fp8_tiles, quantize
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.check import check, poisoned, same_bits, seeded
from v3bench.suite.trials.registry import load

DENSE, GROUPED = load("fp8_gemm_wgrad"), load("grouped_fp8_wgrad")
CONFIG = fp8_gemm_wgrad.many(32, 32, 2, 4, 3)
CASES = [(trial, shape) for trial in (DENSE, GROUPED) for shape in trial.small]


@pytest.mark.parametrize(("trial", "shape"), CASES, ids=lambda value: getattr(value, "op", str(value)))
@pytest.mark.parametrize("parts", [1, 3])
def test_equals_the_float64_product(trial: Any, shape: dict[str, int], parts: int) -> None:
    inputs = seeded(trial, shape, "cpu")
    config = {**CONFIG, "PARTS": parts}
    # The interpreter adds in float32, without the tensor cores' truncation: its bar is the sums' own rounding.
    error = lambda got, want, inputs: rounding_error(got, want, torch.float32, 512)
    assert check(trial, inputs, lambda **given: trial.ours(**given, config=config), error) < 1


@pytest.mark.parametrize("trial", [DENSE, GROUPED], ids=lambda trial: trial.op)
def test_fewer_programs_than_tiles_reach_each(trial: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = seeded(trial, trial.small[0], "cpu")
    whole = trial.ours(**inputs, config={**CONFIG, "PERSISTENT": 0})
    for module in (fp8_tiles, fp8_gemm_wgrad):
        monkeypatch.setattr(module, "sms", lambda device: 1)
    with poisoned():
        assert same_bits(trial.ours(**inputs, config=CONFIG), whole)


def test_a_gradient_is_added_to_another() -> None:
    inputs = seeded(DENSE, DENSE.small[0], "cpu")
    before = torch.randn(40, 70)
    out = before.clone()
    got = fp8_gemm_wgrad.fp8_gemm_wgrad(**inputs, out=out, config=CONFIG)
    assert got is out
    assert torch.equal(got, before + fp8_gemm_wgrad.fp8_gemm_wgrad(**inputs, config=CONFIG))


def test_experts_gradients_are_added_to_others_in_a_part_of_a_wider_tensor() -> None:
    inputs = seeded(GROUPED, GROUPED.small[0], "cpu")
    whole = torch.randn(3, 40, 100)
    out, beside = whole[:, :, :70], whole[:, :, 70:].clone()
    want = out + fp8_gemm_wgrad.grouped_fp8_wgrad(**inputs, config=CONFIG)
    assert torch.equal(fp8_gemm_wgrad.grouped_fp8_wgrad(**inputs, out=out, config=CONFIG), want)
    assert torch.equal(whole[:, :, 70:], beside)


def grouped(ends: list[int], T: int = 384, dtype: torch.dtype = torch.int32) -> tuple[Tensor, dict[str, Any]]:
    torch.manual_seed(1)
    inputs = seeded(DENSE, {"M": 5, "N": 33, "K": T}, "cpu") | {"ends": torch.tensor(ends, dtype=dtype)}
    with poisoned():
        return fp8_gemm_wgrad.grouped_fp8_wgrad(**inputs, config=CONFIG), inputs


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_each_expert_is_the_gradient_of_its_own_tokens(dtype: torch.dtype) -> None:
    """Empty experts at the start, between and at the end are zero; tokens after the last end belong to nobody."""
    got, inputs = grouped([0, 128, 128, 256, 256], dtype=dtype)
    for e, (start, end) in enumerate(((0, 0), (0, 128), (128, 128), (128, 256), (256, 256))):
        if start == end:
            assert (got[e] == 0).all()
            continue
        mine = [inputs[name][:, start:end].contiguous() for name in "ab"]
        scales = [inputs[name][:, start // 128 : end // 128] for name in ("a_scales", "b_scales")]
        alone = fp8_gemm_wgrad.fp8_gemm_wgrad(mine[0], scales[0], mine[1], scales[1], config=CONFIG)
        assert same_bits(got[e], alone)


@pytest.mark.parametrize(
    ("ends", "wrong"),
    [
        ([100, 256, 384], [0, 1]),  # no multiple of 128: both experts that meet there
        ([256, 128, 384], [1]),  # falls
        ([128, 512, 384], [1, 2]),  # beyond the tokens
        ([-128, 128, 384], [0, 1]),
    ],
)
def test_ends_that_cannot_be_right_give_nan_and_harm_no_other(ends: list[int], wrong: list[int]) -> None:
    got, _ = grouped(ends)
    for e in range(3):
        assert got[e].isnan().all() if e in wrong else got[e].isfinite().all()


def test_a_spoiled_row_spoils_its_own_row_or_column() -> None:
    inputs = seeded(DENSE, {"M": 5, "N": 33, "K": 256}, "cpu")
    for name, axis in (("a", 0), ("b", 1)):
        x = torch.randn(inputs[name].shape)
        x[2, 200] = float("nan")
        codes, scales = quantize.reference_tiles(x)
        with poisoned():
            got = fp8_gemm_wgrad.fp8_gemm_wgrad(**{**inputs, name: codes, f"{name}_scales": scales}, config=CONFIG)
        got = got.movedim(axis, 0)
        assert got[2].isnan().all()
        assert got[torch.arange(len(got)) != 2].isfinite().all()


def test_no_tokens_give_zeros_or_leave_what_is_there() -> None:
    a, b = (torch.zeros(rows, 0).to(quantize.FP8) for rows in (4, 6))
    scales = torch.zeros(4, 0), torch.zeros(6, 0)
    ends = torch.zeros(2, dtype=torch.int32)
    with poisoned():
        assert (fp8_gemm_wgrad.fp8_gemm_wgrad(a, scales[0], b, scales[1]) == 0).all()
        assert (fp8_gemm_wgrad.grouped_fp8_wgrad(a, scales[0], b, scales[1], ends) == 0).all()
    out = torch.ones(4, 6)
    assert (fp8_gemm_wgrad.fp8_gemm_wgrad(a, scales[0], b, scales[1], out) == 1).all()


def test_meta_tensors_give_shapes_without_work() -> None:
    a, b = (torch.empty(rows, 1024, dtype=quantize.FP8, device="meta") for rows in (256, 384))
    scales = [torch.empty(rows, 8, device="meta") for rows in (256, 384)]
    ends = torch.empty(4, dtype=torch.int64, device="meta")
    assert fp8_gemm_wgrad.fp8_gemm_wgrad(a, scales[0], b, scales[1]).shape == (256, 384)
    assert fp8_gemm_wgrad.grouped_fp8_wgrad(a, scales[0], b, scales[1], ends).shape == (4, 256, 384)


def codes(*shape: int) -> Tensor:
    return torch.zeros(shape).to(quantize.FP8)


RIGHT = {"a": codes(4, 256), "a_scales": torch.zeros(4, 2), "b": codes(6, 256), "b_scales": torch.zeros(6, 2)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"b": codes(6, 128)}, r"fp8_gemm_wgrad: b has shape \(6, 128\), expected \(any, 256\)"),
        ({"b_scales": torch.zeros(1, 2)}, r"b_scales has shape \(1, 2\), expected \(6, 2\)"),
        ({"a": codes(256, 4).T}, "a has strides .*; the last dimension must be dense"),
        ({"out": torch.zeros(4, 6).bfloat16()}, "out is bfloat16, expected float32"),
        ({"out": torch.zeros(4, 5)}, r"out has shape \(4, 5\), expected \(4, 6\)"),
        ({"out": torch.zeros(6, 4).T}, "out has strides .*; the last dimension must be dense"),
    ],
)
def test_bad_input_is_one_clear_error(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fp8_gemm_wgrad.fp8_gemm_wgrad(**{**RIGHT, **changed}, config=CONFIG)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ends": torch.zeros(2)}, "grouped_fp8_wgrad: ends is float32, expected int32 or int64"),
        ({"ends": torch.zeros(2, 1, dtype=torch.int32)}, r"ends has shape \(2, 1\)"),
        ({"ends": torch.zeros(4, dtype=torch.int32)[::2]}, "ends has strides .*, expected a contiguous"),
        ({"a": codes(4, 144), "b": codes(6, 144)}, "a has 144 tokens, expected a multiple of 128"),
    ],
)
def test_bad_experts_are_one_clear_error(changed: dict[str, Any], message: str) -> None:
    right = {**RIGHT, "ends": torch.zeros(2, dtype=torch.int32)}
    with pytest.raises(ValueError, match=message):
        fp8_gemm_wgrad.grouped_fp8_wgrad(**{**right, **changed}, config=CONFIG)


CUDA = torch.cuda.is_available() and not checks.missing(checks.HOPPER, torch.device("cuda"))
SHAPES = [
    (DENSE, {"M": M, "N": N, "K": K})
    for M, N in ((2112, 7168), (576, 7168), (4096, 7168), (7168, 2048))
    for K in (16, 1040, 4096)
] + [(GROUPED, {"E": E, "R": R, "M": 4096, "N": 7168}) for E, R in ((1, 128), (8, 512), (8, 4096))]


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize(("trial", "shape"), SHAPES, ids=lambda value: getattr(value, "op", str(value)))
def test_every_shape_of_the_model_on_a_gpu(trial: Any, shape: dict[str, int]) -> None:
    assert check(trial, seeded(trial, shape, "cuda"), trial.ours) < 1
