"""Grouped FP8 product over contiguous rows: any rows per expert, each tile kept off its neighbour's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from v3bench.kernels import grouped_tiles
from v3bench.kernels.grouped_fp8_gemm import CANDIDATES, TABLE_SHAPES, example, grouped_fp8_gemm, reference
from v3bench.kernels.grouped_tiles import rows, swapped
from v3bench.suite.trials.check import check, poisoned, seeded
from v3bench.suite.trials.grouped_fp8_gemm import error, rows_of_all, weights
from v3bench.suite.trials.registry import load

CONFIGS = {
    "swapped": swapped(16, 64, 1, 1, 4, 3),
    "two parts": rows(32, 64, 2, 0, 4, 3),
    "three parts": rows(16, 64, 3, 1, 4, 3),  # parts of a tile begin in the middle of a block of scales
}
SWAPPED = CONFIGS["swapped"]


def given(counts: list[int], N: int = 200, K: int = 272) -> dict[str, Tensor]:
    """Operands with so many rows for each expert."""
    (x, x_scales), (w, w_scales) = rows_of_all(sum(counts), K, "cpu"), weights(len(counts), N, K, "cpu")
    offsets = torch.tensor(counts).cumsum(0).int()
    return {"x": x, "x_scales": x_scales, "w": w, "w_scales": w_scales, "offsets": offsets}


def wrong(got: Tensor, inputs: dict[str, Tensor]) -> float:
    """The worst row's error over what is allowed."""
    return error(got, reference(**inputs, out_dtype=torch.float64, compute=torch.float64), inputs)


@pytest.mark.parametrize("shape", load("grouped_fp8_gemm").small, ids=str)
def test_agrees_with_float64_on_the_same_codes(shape: dict[str, int]) -> None:
    trial = load("grouped_fp8_gemm")
    assert check(trial, seeded(trial, shape, "cpu"), lambda **g: trial.ours(**g, config=trial.small_config)) <= 1


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_any_rows_per_expert(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_tiles, "sms", lambda device: 2)  # persistent programs take several tiles each
    inputs = given([0, 5, 0, 33, 3, 0])
    with poisoned():
        got = grouped_fp8_gemm(**inputs, config=config)
    assert wrong(got, inputs) <= 1


def test_the_bar_sees_a_row_of_the_neighbouring_expert() -> None:
    inputs = given([5, 33])
    shifted = inputs | {"offsets": torch.tensor([6, 38], dtype=torch.int32)}
    assert wrong(grouped_fp8_gemm(**shifted, config=SWAPPED), inputs) > 10


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_row_that_is_not_finite_spoils_no_other(config: dict[str, Any]) -> None:
    inputs = given([7, 20], N=64, K=256)
    inputs["x_scales"][3, 1] = float("nan")
    got = grouped_fp8_gemm(**inputs, config=config)
    assert got[3].isnan().all()
    inputs["x_scales"][3, 1] = 0
    got[3] = reference(**inputs)[3]
    assert wrong(got, inputs) <= 1


def test_rows_after_the_last_expert_are_not_written() -> None:
    inputs = given([4, 9, 8], N=64, K=128)
    inputs["offsets"] = torch.tensor([4, 13, 13], dtype=torch.int32)
    with poisoned():
        got = grouped_fp8_gemm(**inputs, config=SWAPPED)
    assert got[13:].isnan().all()
    assert wrong(got[:13], inputs | {"x": inputs["x"][:13], "x_scales": inputs["x_scales"][:13]}) <= 1


@pytest.mark.parametrize("offsets", [[-5, 13, 21], [4, 13, 10_000], [13, 4, 21], [4, 13, 12]])
def test_offsets_that_cannot_be_right_give_nan_and_no_number(offsets: list[int]) -> None:
    inputs = given([4, 9, 8], N=64, K=128)
    inputs["offsets"] = torch.tensor(offsets, dtype=torch.int32)
    with poisoned():
        assert grouped_fp8_gemm(**inputs, config=SWAPPED).isnan().all()


def test_groups_padded_to_tiles_are_given_by_their_ends() -> None:
    inputs = given([16, 32], N=64, K=128)
    padding = torch.tensor([*range(5, 16), *range(36, 48)])  # 5 and 20 rows that count
    inputs["x_scales"][padding] = float("nan")
    got = grouped_fp8_gemm(**inputs, config=SWAPPED)
    assert got[padding].isnan().all()
    inputs["x_scales"][padding] = 0
    got[padding] = 0
    assert wrong(got, inputs) <= 1


def test_scales_by_row_and_rows_a_step_apart() -> None:
    inputs = given([3, 6], N=64, K=144)
    spaced = torch.zeros(9, 256, dtype=torch.uint8).view(inputs["x"].dtype)[:, :144]
    spaced.copy_(inputs["x"])
    got = grouped_fp8_gemm(**inputs | {"x": spaced, "x_scales": inputs["x_scales"].contiguous()}, config=SWAPPED)
    assert wrong(got, inputs) <= 1


def test_float32_is_the_sum_unrounded() -> None:
    inputs = given([3, 6], N=64, K=256)
    want = reference(**inputs, out_dtype=torch.float64, compute=torch.float64)
    got = grouped_fp8_gemm(**inputs, out_dtype=torch.float32, config=SWAPPED)
    assert got.dtype == torch.float32
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("counts", [[0, 0, 0], []])
def test_no_rows_or_no_experts_give_an_empty_result(counts: list[int]) -> None:
    w, w_scales = weights(3, 64, 128, "cpu")
    (x, x_scales), E = rows_of_all(0, 128, "cpu"), len(counts)
    offsets = torch.zeros(E, dtype=torch.int32)
    assert grouped_fp8_gemm(x, x_scales, w[:E], w_scales[:E], offsets, config=SWAPPED).shape == (0, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(6, 256)}, "grouped_fp8_gemm: x is float32, expected float8_e4m3fn"),
        ({"w": torch.zeros(2, 64, 128).to(torch.float8_e4m3fn)}, r"w has shape \(2, 64, 128\), expected"),
        ({"w": torch.zeros(2, 256, 64).to(torch.float8_e4m3fn).mT}, "w has strides .*, expected a contiguous tensor"),
        ({"x_scales": torch.zeros(6, 3)}, r"x_scales has shape \(6, 3\), expected \(6, 2\)"),
        ({"x_scales": torch.zeros(6, 2).double()}, "x_scales is float64, expected float32"),
        ({"w_scales": torch.zeros(2, 2, 4).mT[:, :1]}, r"w_scales has strides .*; the last dimension must be dense"),
        ({"w_scales": torch.zeros(1, 1, 2)}, r"w_scales has shape \(1, 1, 2\), expected \(2, 1, 2\)"),
        ({"offsets": torch.zeros(2, dtype=torch.int64)}, "offsets is int64, expected int32"),
        ({"offsets": torch.zeros(3, dtype=torch.int32)}, r"offsets has shape \(3,\), expected \(2\)"),
        ({"out_dtype": torch.float16}, "out_dtype is float16, expected bfloat16 or float32"),
        ({"offsets": torch.zeros(2, dtype=torch.int32, device="meta")}, "tensors lie on cpu and meta"),
    ],
)
def test_bad_input_is_one_clear_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grouped_fp8_gemm(**given([2, 4], N=64, K=256) | change, config=SWAPPED)


def test_columns_that_are_no_multiple_of_16_are_refused() -> None:
    (x, x_scales), (w, w_scales) = rows_of_all(6, 200, "cpu"), weights(1, 64, 200, "cpu")
    with pytest.raises(ValueError, match="x has rows that do not start at multiples of 16 bytes"):
        grouped_fp8_gemm(x, x_scales, w, w_scales, torch.tensor([6], dtype=torch.int32), config=SWAPPED)


def test_meta_tensors_give_shapes_without_work() -> None:
    inputs = {name: value.to("meta") for name, value in given([3, 6], N=64, K=128).items()}
    assert grouped_fp8_gemm(**inputs).shape == (9, 64)


def test_every_table_shape_has_candidates_and_no_program_without_a_possible_tile() -> None:
    for shape in TABLE_SHAPES["grouped_fp8_gemm"]:
        fitting = 0
        for config in CANDIDATES["grouped_fp8_gemm"]:
            try:
                (launch,) = example("grouped_fp8_gemm", shape, config)
            except ValueError:
                continue
            fitting += 1
            per_tile = config["BM"] * config["BN"] * config["PARTS"]
            assert launch.programs <= 2 * shape["E"] * max(shape["R"], config["BM"]) * shape["N"] / per_tile
        assert fitting >= 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", TABLE_SHAPES["grouped_fp8_gemm"], ids=str)
def test_published_shapes_on_a_gpu(shape: dict[str, int]) -> None:
    trial = load("grouped_fp8_gemm")
    assert check(trial, seeded(trial, shape, "cuda"), trial.ours) <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", CANDIDATES["grouped_fp8_gemm"], ids=str)
def test_every_candidate_on_a_gpu_with_skewed_rows(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    inputs = {name: value.cuda() for name, value in given([0, 1, 700, 0, 129, 64, 5, 0], N=576, K=1536).items()}
    assert wrong(grouped_fp8_gemm(**inputs, config=config), inputs) <= 1
