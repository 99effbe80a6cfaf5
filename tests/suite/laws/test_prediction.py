"""What the model of a kernel's time says in cases that can be worked out by hand."""

from dataclasses import replace

import pytest
from v3bench.suite.laws.prediction import Machine, passes, predict
from v3bench.suite.laws.work import Work
from v3bench.suite.meter.compiled import Built

CHIP = Machine(
    sms=100, clock=1e9, bandwidth=1e12, l2_bandwidth=2e12, launch=2e-6, flop_rate={"bf16": 1e14, "fp8": 2e14}
)
GAP = CHIP.launch
KERNEL = Built(
    triton="3.7.1", name="k", programs=1000, l2_bytes=0, passes=0, warps=4, registers=32, stack_bytes=0, shared_bytes=0,
    instructions={"FADD": 100}, loop={}, loop_flops=0, loop_bytes=0, spills=False, ctas_per_sm=5,
)  # fmt: skip


def test_bytes_alone_take_the_time_of_the_memory():
    found = predict(Work(0, 10**9, "", 10**9), [KERNEL], CHIP)
    assert found.seconds == pytest.approx(1e-3 + GAP)
    assert found.waves == 2.0
    assert found.roofline_share == pytest.approx(1e-3 / (1e-3 + GAP))
    assert found.instructions_per_element == pytest.approx(1000 * 4 * 100 * 32 / 1e9)


def test_tiles_read_again_and_again_take_the_time_of_the_l2():
    again = replace(KERNEL, l2_bytes=4 * 10**9)
    assert predict(Work(0, 10**9, "", 10**9), [again], CHIP).seconds == pytest.approx(2e-3 + GAP)


def test_too_many_instructions_take_longer_than_the_memory():
    busy = replace(KERNEL, instructions={"FADD": 10**6})
    assert predict(Work(0, 10**9, "", 1), [busy], CHIP).seconds == pytest.approx(1000 * 4 * 1e6 / (100 * 4 * 1e9) + GAP)


def test_alone_on_an_sm_a_cta_adds_its_issue_to_its_products():
    work = Work(10**11, 10**6, "bf16")
    kernel = replace(KERNEL, programs=100, ctas_per_sm=2, instructions={"FFMA": 10**6})
    together = predict(work, [kernel], CHIP).seconds
    alone = predict(work, [replace(kernel, ctas_per_sm=1)], CHIP).seconds
    assert together == pytest.approx(1e-3 + GAP)
    assert alone == pytest.approx(2e-3 + GAP)


def test_a_last_wave_costs_a_whole_one():
    work = Work(10**11, 10**6, "bf16")
    full = predict(work, [replace(KERNEL, programs=500)], CHIP).seconds
    over = predict(work, [replace(KERNEL, programs=501)], CHIP).seconds
    assert over - GAP == pytest.approx((full - GAP) * 1000 / 501)


def test_a_small_grid_leaves_sms_idle():
    work = Work(10**11, 10**6, "bf16")
    whole = predict(work, [replace(KERNEL, programs=100)], CHIP).seconds
    quarter = predict(work, [replace(KERNEL, programs=25)], CHIP).seconds
    assert quarter - GAP == pytest.approx(4 * (whole - GAP))


def test_passes_follow_from_the_loop():
    looped = replace(KERNEL, programs=10, loop={"HGMMA": 4}, loop_flops=1000)
    assert passes(Work(50_000, 1, "bf16"), looped) == 5
    assert passes(Work(0, 80_000, "", 1), replace(looped, loop_flops=0, loop_bytes=400)) == 20
    assert passes(Work(50_000, 1, "bf16"), KERNEL) == 1
    padded = replace(looped, loop_flops=16_000, loop_bytes=400)
    assert passes(Work(50_000, 80_000, "bf16"), padded) == 20  # three of four products are padding


def test_told_passes_count_padded_products():
    told = replace(KERNEL, programs=100, passes=1000, loop={"HGMMA": 1}, loop_flops=2 * 10**6)
    assert passes(Work(10**11, 1, "bf16"), told) == 1000
    assert predict(Work(10**11, 10**6, "bf16"), [told], CHIP).seconds == pytest.approx(2e-3 + GAP)


def test_special_functions_take_eight_clocks():
    plain = predict(Work(0, 1, "", 1), [replace(KERNEL, instructions={"FADD": 10**6})], CHIP)
    slow = predict(Work(0, 1, "", 1), [replace(KERNEL, instructions={"MUFU": 10**6})], CHIP)
    assert slow.seconds - GAP == pytest.approx(8 * (plain.seconds - GAP))
    assert slow.instructions_per_element == plain.instructions_per_element


def test_every_launch_costs_its_gap():
    work = Work(0, 10**6, "", 1)
    once, twice = (predict(work, [KERNEL] * n, CHIP).seconds for n in (1, 2))
    assert twice - once == pytest.approx(GAP)
