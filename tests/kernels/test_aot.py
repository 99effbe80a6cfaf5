"""What is read out of disassembled code."""

from __future__ import annotations

import pytest
from v3bench.kernels.aot import SHARED_LIMIT, Compiled, Instruction, largest_loop

COUNTS = {"instructions": {}, "loop": {}, "loop_flops": 0, "loop_bytes": 0}


def line(at: int, opcode: str, modifiers: str = "", operands: str = "") -> Instruction:
    return Instruction(at, opcode, modifiers, operands)


@pytest.mark.parametrize(
    ("instruction", "warps", "flops"),
    [
        (line(0, "QGMMA", ".64x128x32.F32.E4M3.E4M3"), 8, 2 * 2 * 64 * 128 * 32),
        (line(0, "HGMMA", ".64x256x16.F32.BF16"), 4, 2 * 64 * 256 * 16),
        (line(0, "HMMA", ".16816.F32.BF16"), 4, 4 * 2 * 16 * 8 * 16),
        (line(0, "HMMA", ".1688.F32"), 1, 2 * 16 * 8 * 8),
        (line(0, "FFMA"), 4, 0),
    ],
)
def test_flops_of_matrix_instructions(instruction: Instruction, warps: int, flops: int) -> None:
    assert instruction.flops(warps) == flops


@pytest.mark.parametrize(
    ("instruction", "nbytes"),
    [
        (line(0, "LDG", ".E.128"), 16 * 64),
        (line(0, "LDG", ".E.128.CONSTANT"), 16 * 64),
        (line(0, "STG", ".E"), 4 * 64),
        (line(0, "STG", ".E.U8"), 64),
        (line(0, "LDGSTS", ".E.BYPASS.128"), 16 * 64),
        (line(0, "LDS", ".128"), 0),
    ],
)
def test_bytes_of_memory_instructions(instruction: Instruction, nbytes: int) -> None:
    assert instruction.nbytes(2) == nbytes


def test_the_loop_is_the_longest_one_that_holds_no_other() -> None:
    inner = [line(0x100 + 16 * i, "FFMA") for i in range(20)] + [line(0x240, "BRA", "", " 0x100")]
    waiting = [line(0x300, "SYNCS"), line(0x310, "BRA", "", " 0x300")]
    code = [line(0x10, "MOV"), *inner, *waiting, line(0x400, "BRA", "", " 0x10"), line(0x410, "BRA", "", " 0x410")]
    assert largest_loop(code) == inner
    assert largest_loop(waiting) == []
    assert largest_loop([line(0, "FFMA")]) == []


@pytest.mark.parametrize(
    ("warps", "registers", "shared", "ctas"),
    [
        (8, 154, 98328, 1),
        (4, 153, 73728, 3),
        (4, 255, 1024, 2),
        (1, 16, 0, 32),
        (8, 32, SHARED_LIMIT, 1),
        (4, 32, SHARED_LIMIT + 1, 0),
    ],
)
def test_ctas_of_an_sm(warps: int, registers: int, shared: int, ctas: int) -> None:
    made = Compiled("3.7.1", "k", warps, registers, 0, shared, **COUNTS)  # type: ignore[arg-type]
    assert made.ctas_per_sm == ctas


def test_spills_show_in_the_stack_or_in_local_memory() -> None:
    fine = Compiled("3.7.1", "k", 4, 32, 0, 0, {"FFMA": 1}, {}, 0, 0)
    assert not fine.spills
    assert Compiled("3.7.1", "k", 4, 255, 8, 0, {}, {}, 0, 0).spills
    assert Compiled("3.7.1", "k", 4, 255, 0, 0, {"STL": 1}, {}, 0, 0).spills
