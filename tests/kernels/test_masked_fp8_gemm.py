"""Masked grouped FP8 product: valid rows right, the others untouched, whatever the counts on the device say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from v3bench.kernels import grouped_tiles
from v3bench.kernels.grouped_tiles import rows, swapped
from v3bench.kernels.masked_fp8_gemm import CANDIDATES, TABLE_SHAPES, example, masked_fp8_gemm, reference, stacked
from v3bench.suite.trials.check import check, seeded
from v3bench.suite.trials.grouped_fp8_gemm import rows_of_all, weights
from v3bench.suite.trials.masked_fp8_gemm import error
from v3bench.suite.trials.registry import load

CONFIGS = {
    "swapped": swapped(16, 64, 1, 1, 4, 3),
    "two parts": rows(32, 64, 2, 0, 4, 3),
    "three parts": rows(16, 64, 3, 1, 4, 3),
}
SWAPPED = CONFIGS["swapped"]


def given(counts: list[int], R: int = 20, N: int = 200, K: int = 272) -> dict[str, Tensor]:
    """Operands with room for R rows an expert, of which so many count."""
    E = len(counts)
    (x, x_scales), (w, w_scales) = rows_of_all(E * R, K, "cpu"), weights(E, N, K, "cpu")
    masked_m = torch.tensor(counts, dtype=torch.int32)
    return {
        "x": x.view(E, R, K), "x_scales": stacked(x_scales, E), "w": w, "w_scales": w_scales, "masked_m": masked_m,
    }  # fmt: skip


def wrong(got: Tensor, inputs: dict[str, Tensor]) -> float:
    """The worst valid row's error over what is allowed."""
    return error(got, reference(**inputs, out_dtype=torch.float64, compute=torch.float64), inputs)


@pytest.mark.parametrize("shape", load("masked_fp8_gemm").small, ids=str)
def test_agrees_with_float64_on_the_same_codes(shape: dict[str, int]) -> None:
    trial = load("masked_fp8_gemm")
    assert check(trial, seeded(trial, shape, "cpu"), lambda **g: trial.ours(**g, config=trial.small_config)) <= 1


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_valid_rows_are_right_and_the_others_untouched(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_tiles, "sms", lambda device: 2)  # persistent programs take several tiles each
    inputs = given([0, 3, 20, 17, 0])
    out = torch.full((5, 20, 200), 7.0, dtype=torch.bfloat16)
    got = masked_fp8_gemm(**inputs, out=out, config=config)
    assert got is out
    assert wrong(got, inputs) <= 1
    valid = torch.arange(20) < inputs["masked_m"][:, None]
    assert (got[~valid] == 7).all()


def test_the_bar_sees_another_experts_weights() -> None:
    inputs = given([4, 4], N=64, K=128)
    got = masked_fp8_gemm(**inputs | {"w": inputs["w"].flip(0)}, config=SWAPPED)
    assert wrong(got, inputs) > 10


def test_rows_that_do_not_count_may_hold_anything() -> None:
    inputs = given([2, 0, 5], R=8, N=64, K=128)
    invalid = torch.arange(8) >= inputs["masked_m"][:, None]
    inputs["x"].view(torch.uint8)[invalid] = 0x7F  # NaN
    inputs["x_scales"][invalid] = float("nan")
    assert wrong(masked_fp8_gemm(**inputs, config=SWAPPED), inputs) <= 1


def test_counts_outside_the_room_write_nothing_outside() -> None:
    inputs = given([100, -3, 2], R=8, N=64, K=128)
    out = torch.full((3, 8, 64), 7.0, dtype=torch.bfloat16)
    masked_fp8_gemm(**inputs, out=out, config=SWAPPED)
    assert (out[1] == 7).all()
    assert (out[2, 2:] == 7).all()
    inputs["masked_m"] = torch.tensor([8, 0, 2], dtype=torch.int32)
    assert wrong(out, inputs) <= 1


def test_scales_of_each_expert_may_be_stored_by_row() -> None:
    inputs = given([3, 6], R=8, N=64, K=256)
    got = masked_fp8_gemm(**inputs | {"x_scales": inputs["x_scales"].contiguous()}, config=SWAPPED)
    assert wrong(got, inputs) <= 1


def test_no_room_gives_an_empty_result() -> None:
    inputs = given([0, 0], R=0, N=64, K=128)
    assert masked_fp8_gemm(**inputs, config=SWAPPED).shape == (2, 0, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(6, 256).to(torch.float8_e4m3fn)}, r"masked_fp8_gemm: x has shape \(6, 256\), expected"),
        (
            {"x": torch.zeros(3, 8, 256).to(torch.float8_e4m3fn)},
            r"x_scales has shape \(2, 8, 2\), expected \(3, 8, 2\)",
        ),
        ({"x": torch.zeros(2, 16, 256).to(torch.float8_e4m3fn)[:, ::2]}, "x has strides .*, expected a contiguous"),
        ({"masked_m": torch.zeros(1, dtype=torch.int32)}, r"masked_m has shape \(1,\), expected \(2\)"),
        ({"out": torch.zeros(2, 8, 64)}, "out is float32, expected bfloat16"),
        ({"out": torch.zeros(2, 4, 64).bfloat16()}, r"out has shape \(2, 4, 64\), expected \(2, 8, 64\)"),
        ({"w_scales": torch.zeros(2, 2, 2)}, r"w_scales has shape \(2, 2, 2\), expected \(2, 1, 2\)"),
    ],
)
def test_bad_input_is_one_clear_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masked_fp8_gemm(**given([2, 4], R=8, N=64, K=256) | change, config=SWAPPED)


def test_weights_of_another_number_of_experts_are_refused() -> None:
    inputs, other = given([2, 4], R=8, N=64, K=256), given([1, 1, 1], R=8, N=64, K=256)
    with pytest.raises(ValueError, match="x has rows of 2 experts, expected 3, as w"):
        masked_fp8_gemm(**other | {"x": inputs["x"], "x_scales": inputs["x_scales"]}, config=SWAPPED)


def test_meta_tensors_give_shapes_without_work() -> None:
    inputs = {name: value.to("meta") for name, value in given([3, 6], R=8, N=64, K=128).items()}
    assert masked_fp8_gemm(**inputs).shape == (2, 8, 64)


def test_every_table_shape_has_candidates() -> None:
    for shape in TABLE_SHAPES["masked_fp8_gemm"]:
        fitting = 0
        for config in CANDIDATES["masked_fp8_gemm"]:
            try:
                example("masked_fp8_gemm", shape, config)
            except ValueError:
                continue
            fitting += 1
        assert fitting >= 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", TABLE_SHAPES["masked_fp8_gemm"], ids=str)
def test_published_shapes_on_a_gpu(shape: dict[str, int]) -> None:
    trial = load("masked_fp8_gemm")
    assert check(trial, seeded(trial, shape, "cuda"), trial.ours) <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", CANDIDATES["masked_fp8_gemm"], ids=str)
def test_every_candidate_on_a_gpu_with_skewed_counts(config: dict[str, Any]) -> None:
    inputs = given([0, 1, 300, 0, 129, 64, 5, 0], R=320, N=576, K=1536)
    inputs = {name: value.cuda() for name, value in inputs.items()}
    assert wrong(masked_fp8_gemm(**inputs, config=config), inputs) <= 1
