"""Block-scaled FP8 GEMM: both forms equal the float64 product; nothing outside a row spoils it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from v3bench.kernels import checks, fp8_gemm, fp8_tiles, quantize
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.check import check, poisoned, same_bits, seeded
from v3bench.suite.trials.registry import load

TRIAL = load("fp8_gemm")
MANY = fp8_gemm.many(64, 64, 2, 4, 3)
FEW = fp8_gemm.few(64, 16, 4, 3, 1)
CONFIGS = {
    "many": MANY,
    "one part": {**MANY, "PART": 128, "PARTS": 1},
    "three parts": {**MANY, "PARTS": 3},
    "many, split": {**MANY, "SPLITS": 2},
    "few": FEW,
    "few, split": {**FEW, "SPLITS": 3},
    "few, of whole blocks": {**FEW, "BLOCK_N": 128, "BLOCK_T": 32},
}


def gemm(inputs: dict[str, Tensor], config: Any, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return fp8_gemm.fp8_gemm(**inputs, out_dtype=dtype, config=config)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("shape", TRIAL.small, ids=str)
def test_equals_the_float64_product(shape: dict[str, int], config: dict[str, Any]) -> None:
    inputs = seeded(TRIAL, shape, "cpu")
    assert check(TRIAL, inputs, lambda **given: fp8_gemm.fp8_gemm(**given, config=config)) < 0.6


@pytest.mark.parametrize("config", [MANY, {**MANY, "SPLITS": 2}, FEW], ids=["many", "split", "few"])
def test_a_float32_result_has_the_error_of_its_sums(config: dict[str, Any]) -> None:
    inputs = seeded(TRIAL, {"M": 5, "N": 203, "K": 272}, "cpu")  # an odd width: rows the bulk engine cannot store
    got = gemm(inputs, config, torch.float32)
    assert rounding_error(got, TRIAL.oracle(**inputs), torch.float32, 272) < 1


def test_every_scale_counts() -> None:
    """One doubled scale changes its tile's rows or its block's columns, and nothing else."""
    inputs = seeded(TRIAL, {"M": 3, "N": 200, "K": 272}, "cpu")
    for config in (MANY, FEW):
        before = gemm(inputs, config)
        for tile in range(3):
            a_scales, b_scales = inputs["a_scales"].clone(), inputs["b_scales"].clone()
            a_scales[1, tile] *= 2
            b_scales[1, tile] *= 2
            changed = gemm({**inputs, "a_scales": a_scales}, config) != before
            assert changed[1].any()
            assert not changed[[0, 2]].any()
            changed = gemm({**inputs, "b_scales": b_scales}, config) != before
            assert changed[:, 128:].any()
            assert not changed[:, :128].any()


@pytest.mark.parametrize("config", [MANY, {**MANY, "SPLITS": 2}, FEW], ids=["many", "split", "few"])
def test_a_spoiled_row_spoils_no_other(config: dict[str, Any]) -> None:
    inputs = seeded(TRIAL, {"M": 5, "N": 200, "K": 272}, "cpu")
    x = torch.randn(5, 272)
    x[3, 200] = float("inf")
    a, a_scales = quantize.reference_tiles(x)
    with poisoned():
        got = gemm({**inputs, "a": a, "a_scales": a_scales}, config)
    assert got[3].isnan().all()
    assert got[[0, 1, 2, 4]].isfinite().all()


def test_scales_may_have_any_strides() -> None:
    inputs = seeded(TRIAL, {"M": 5, "N": 200, "K": 272}, "cpu")
    for config in (MANY, FEW):
        turned = {
            **inputs,
            "a_scales": inputs["a_scales"].contiguous(),
            "b_scales": inputs["b_scales"].T.contiguous().T,
        }
        apart = torch.full((5, 7), float("nan"))[:, ::3]
        apart.copy_(inputs["a_scales"])
        for given in (turned, {**inputs, "a_scales": apart}):
            assert same_bits(gemm(given, config), gemm(inputs, config))


def test_rows_may_be_a_part_of_wider_ones() -> None:
    inputs = seeded(TRIAL, {"M": 5, "N": 200, "K": 272}, "cpu")
    wide = {name: torch.cat([inputs[name].view(torch.uint8)] * 2, 1)[:, :272].view(quantize.FP8) for name in "ab"}
    assert wide["a"].stride(0) == 544
    assert same_bits(gemm({**inputs, **wide}, MANY), gemm(inputs, MANY))


def test_every_tile_is_reached_by_any_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of any height, the last one lower; fewer programs than tiles (the output is poisoned)."""
    monkeypatch.setattr(fp8_tiles, "sms", lambda device: 2)
    inputs = seeded(TRIAL, {"M": 170, "N": 70, "K": 16}, "cpu")
    want = TRIAL.oracle(**inputs)
    for group in (1, 2, 5):
        config = {**MANY, "BLOCK_M": 32, "PART": 32, "PARTS": 1, "GROUP": group, "PERSISTENT": group // 2}
        (launch,) = fp8_gemm.launches(**inputs, out=torch.empty(170, 70), partial=None, config=config)
        assert launch.programs == {1: 18, 2: 2, 5: 4}[group]
        with poisoned():
            got = gemm(inputs, config)
        assert TRIAL.error(got, want, inputs) < 1


@pytest.mark.parametrize("config", [MANY, FEW], ids=["many", "few"])
@pytest.mark.parametrize(("M", "N", "K"), [(0, 128, 128), (4, 0, 128), (4, 128, 0)])
def test_an_empty_side_gives_an_empty_or_zero_result(M: int, N: int, K: int, config: dict[str, Any]) -> None:
    blocks = [torch.zeros(-(-rows // 128), -(-K // 128)) for rows in (M, N)]
    a, b = (torch.zeros(rows, K).to(quantize.FP8) for rows in (M, N))
    with poisoned():
        got = fp8_gemm.fp8_gemm(a, torch.zeros(M, -(-K // 128)), b, blocks[1], config=config)
    assert got.shape == (M, N)
    assert (got == 0).all()


def codes(*shape: int) -> Tensor:
    return torch.zeros(shape).to(quantize.FP8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"a": torch.zeros(4, 256)}, "fp8_gemm: a is float32, expected float8_e4m3fn"),
        ({"a": codes(4, 2, 128)}, r"fp8_gemm: a has shape \(4, 2, 128\)"),
        ({"b": codes(200, 128)}, r"fp8_gemm: b has shape \(200, 128\), expected \(any, 256\)"),
        ({"a": codes(256, 4).T}, "fp8_gemm: a has strides .*; the last dimension must be dense"),
        ({"a": codes(4, 257)[:, :256]}, "fp8_gemm: a has rows that do not start at multiples of 16 bytes"),
        ({"b": codes(200, 272)[:, 1:257]}, "fp8_gemm: b has rows that do not start at multiples of 16 bytes"),
        ({"a_scales": torch.zeros(4, 3)}, r"fp8_gemm: a_scales has shape \(4, 3\), expected \(4, 2\)"),
        ({"a_scales": torch.zeros(4, 2).double()}, "fp8_gemm: a_scales is float64, expected float32"),
        ({"b_scales": torch.zeros(1, 2)}, r"fp8_gemm: b_scales has shape \(1, 2\), expected \(2, 2\)"),
        ({"b_scales": torch.zeros(2, 2, device="meta")}, "fp8_gemm: tensors lie on cpu and meta"),
        ({"a_scales": torch.empty_strided((4, 2), (2**30, 1), device="meta")}, "it must not span more than 2"),
        ({"out_dtype": torch.float16}, "fp8_gemm: out_dtype is float16, expected bfloat16 or float32"),
    ],
)
def test_bad_input_is_one_clear_error(changed: dict[str, Any], message: str) -> None:
    right = {"a": codes(4, 256), "a_scales": torch.zeros(4, 2), "b": codes(200, 256), "b_scales": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match=message):
        fp8_gemm.fp8_gemm(**{**right, **changed}, config=MANY)  # type: ignore[arg-type]


def test_meta_tensors_give_shapes_without_work() -> None:
    a, b = (torch.empty(rows, 7168, dtype=quantize.FP8, device="meta") for rows in (4096, 2112))
    scales = torch.empty(4096, 56, device="meta"), torch.empty(17, 56, device="meta")
    assert fp8_gemm.fp8_gemm(a, scales[0], b, scales[1]).shape == (4096, 2112)


def test_every_split_of_k_has_work() -> None:
    out = torch.empty(64, 200, device="meta")
    for K in (16, 384, 2048, 7168):
        for splits in (1, 2, 3, 5, 8, 16):
            tiles, steps = -(-K // 128), fp8_gemm.fp8_gemm_few.steps(out, K, {**FEW, "SPLITS": splits})
            used = -(-tiles // steps)
            assert used <= splits
            assert (used - 1) * steps < tiles


def test_k_is_split_only_where_tiles_leave_sms_idle() -> None:
    few, many = {**FEW, "BLOCK_T": 64, "SPLITS": 4}, {**MANY, "SPLITS": 4}
    for config, width in ((few, 64), (many, 128)):
        for tiles, splits in ((131, 4), (132, 1)):
            out = torch.empty(64, tiles * width, device="meta")
            assert -(-32 // fp8_gemm.fp8_gemm_few.steps(out, 4096, config)) == splits


CUDA = torch.cuda.is_available() and not checks.missing(checks.HOPPER, torch.device("cuda"))
WEIGHTS = [(2112, 7168), (576, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048)]


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize(("N", "K"), WEIGHTS)
def test_every_shape_of_the_model_on_a_gpu(N: int, K: int) -> None:
    for M in (1, 3, 17, 64, 65, 128, 129, 1025, 4096):
        assert check(TRIAL, seeded(TRIAL, {"M": M, "N": N, "K": K}, "cuda"), TRIAL.ours) < 1, M


@pytest.mark.parametrize(
    ("dtype", "N", "bulk"), [(torch.bfloat16, 64, True), (torch.bfloat16, 60, False), (torch.float32, 64, False)]
)
def test_only_bfloat16_leaves_by_the_bulk_copy(dtype: torch.dtype, N: int, bulk: bool) -> None:
    """A tile of float32 on its way out would not fit the shared memory beside four stages of operands."""
    meta = torch.device("meta")
    a, b = (torch.empty(rows, 256, dtype=torch.float8_e4m3fn, device=meta) for rows in (40, N))
    scales = torch.empty(40, 2, device=meta), torch.empty(1, 2, device=meta)
    out, config = torch.empty(40, N, dtype=dtype, device=meta), fp8_gemm.many(128, 128, 2, 8, 4)
    (launch,) = fp8_gemm.launches(a, scales[0], b, scales[1], out, None, config=config)
    assert launch.args["BULK"] is bulk
