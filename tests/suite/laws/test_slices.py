"""An operation is a slice where a layer of a released model has its dimensions, and nowhere else."""

from __future__ import annotations

import pytest
from v3bench.suite import models
from v3bench.suite.laws import slices, work
from v3bench.suite.laws.slices import is_slice, matrices

V3 = models.load("deepseek-v3")[1]
LLAMA = models.load("llama-3.1-8b")[1]
QWEN = models.load("qwen2.5-7b")[1]


def test_every_operation_has_a_rule():
    assert slices.RULES.keys() == work.WORK.keys()


def test_the_matrices_of_a_layer_are_those_that_are_published():
    listed = {(2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048), (36864, 7168)}
    assert listed <= matrices(V3)
    assert {(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)} <= matrices(LLAMA)


@pytest.mark.parametrize(
    "op, shape, config, yes",
    [
        ("fp8_gemm", {"M": 3, "N": 7168, "K": 16384}, V3, True),
        ("fp8_gemm", {"M": 7168, "N": 3, "K": 16384}, V3, False),
        ("fp8_gemm", {"M": 64, "N": 7168, "K": 16384}, LLAMA, False),
        ("fp8_gemm_wgrad", {"M": 16384, "N": 7168, "K": 5}, V3, True),
        ("quantize_tiles", {"M": 1, "K": 18432}, V3, True),
        ("quantize_tiles", {"M": 1, "K": 18431}, V3, False),
        ("quantize_blocks", {"N": 576, "K": 7168}, V3, True),
        ("grouped_fp8_gemm", {"E": 8, "R": 1, "N": 4096, "K": 7168}, V3, True),
        ("grouped_fp8_gemm", {"E": 9, "R": 1, "N": 4096, "K": 7168}, V3, False),
        ("masked_fp8_gemm", {"E": 256, "R": 1, "N": 7168, "K": 16384}, V3, False),
        ("masked_fp8_gemm", {"E": 1, "R": 1, "N": 4096, "K": 7168}, LLAMA, False),
        ("paged_mla", {"B": 1, "S": 1, "H": 128, "L": 1}, V3, True),
        ("paged_mla", {"B": 1, "S": 1, "H": 16, "L": 1}, V3, True),
        ("paged_mla", {"B": 1, "S": 1, "H": 48, "L": 1}, V3, False),
        ("paged_mla", {"B": 1, "S": 1, "H": 32, "L": 1}, LLAMA, False),
        ("mla_prefill", {"B": 1, "H": 128, "S": 1}, V3, True),
        ("paged_gqa", {"B": 1, "H": 32, "J": 8, "L": 1}, LLAMA, True),
        ("paged_gqa", {"B": 1, "H": 4, "J": 1, "L": 1}, LLAMA, True),
        ("paged_gqa", {"B": 1, "H": 8, "J": 8, "L": 1}, LLAMA, False),
        ("paged_gqa", {"B": 1, "H": 28, "J": 4, "L": 1}, QWEN, True),
        ("paged_gqa", {"B": 1, "H": 28, "J": 4, "L": 1}, V3, False),
        ("route", {"T": 1, "E": 256, "K": 8}, V3, True),
        ("route", {"T": 1, "E": 256, "K": 6}, V3, False),
        ("route", {"T": 1, "E": 256, "K": 8}, LLAMA, False),
        ("permute", {"T": 1, "K": 8, "D": 7168}, V3, True),
        ("unpermute", {"T": 1, "K": 8, "D": 7040}, V3, False),
        ("rms_norm_quantize", {"M": 1, "D": 1536}, V3, True),
        ("add_rms_norm_quantize", {"M": 1, "D": 1536}, V3, False),
        ("swiglu_quantize", {"M": 1, "F": 2048}, V3, True),
        ("swiglu_quantize", {"M": 1, "F": 256}, V3, False),
        ("fp8_linear", {"M": 64, "N": 7168, "K": 16384}, V3, True),
        ("fp8_linear", {"M": 64, "N": 7168, "K": 16385}, V3, False),
        ("masked_mlp", {"E": 8, "R": 1, "D": 7168, "F": 2048}, V3, True),
        ("masked_mlp", {"E": 8, "R": 1, "D": 7168, "F": 1024}, V3, False),
        ("no_such_operation", {}, V3, False),
        ("fp8_gemm", {"M": 64, "N": 7168}, V3, False),
    ],
)
def test_dimensions_decide_and_rows_do_not(op, shape, config, yes):
    assert is_slice(op, shape, config) == yes
