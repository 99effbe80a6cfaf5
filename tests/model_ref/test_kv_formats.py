"""Storage formats of a KV cache: bytes equal to the formula, what is read back, and bad numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.kernels import paged_cache
from v3bench.model_ref import kv_formats
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.kv_formats import BF16, E4M3, FlashMLA, Integer, Split, Window, packed, unpacked
from v3bench.suite.laws import kv
from v3bench.suite.models import load

STORAGES = {
    "bf16": BF16(), "fp8": E4M3(), "fp8-16": E4M3(16), "int8": Integer(8), "int4": Integer(4), "int2": Integer(2),
    "int4-channel": Integer(4, (32, 1)), "int8-box": Integer(8, (3, 5), torch.float32),
    "split": Split(3, Integer(4)), "window": Window(7, 2), "window-int4": Window(40, 3, Integer(4, (32, 1))),
}  # fmt: skip
BAD = [float("nan"), float("inf"), -float("inf")]


def tokens(L, W, seed=0, heads=2):
    """Values of very different magnitudes, within what float16 scales hold."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(heads, L, W, generator=generator)
    return x * torch.exp2(torch.randint(-6, 6, (heads, L, 1), generator=generator).float())


def formula(name, storage, L, W):
    """Bytes of one head by suite/laws/kv.py."""
    if isinstance(storage, Window):
        return formula(name, storage.inside, kv.kept_tokens(L, storage.last, storage.sinks), W)
    if isinstance(storage, Split):
        return formula(name, storage.first, L, storage.width) + formula(name, BF16(), L, W - storage.width)
    if isinstance(storage, Integer):
        return kv.quantised_bytes(L, W, storage.bits, storage.box, 2 * storage.scale.itemsize)
    if isinstance(storage, E4M3):
        return kv.quantised_bytes(L, W, 8, (1, storage.columns), 4)
    return kv.quantised_bytes(L, W, 16, (1, 0), 0)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(STORAGES)), st.integers(0, 70), st.integers(3, 20), st.integers(0, 99))
def test_shapes_and_bytes_are_those_of_the_formula(name, L, W, seed):
    storage, x = STORAGES[name], tokens(L, W, seed)
    stored = storage.store(x)
    assert storage.load(stored).shape == (2, len(storage.kept(L)), W)
    assert stored.nbytes == 2 * formula(name, storage, L, W)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([2, 4, 8]), st.integers(1, 40), st.integers(0, 9), st.sampled_from([torch.float16, torch.float32]),
    st.integers(1, 70), st.integers(1, 20), st.integers(0, 99),
)  # fmt: skip
def test_integers_are_off_by_half_a_step_and_their_scales_rounding(bits, r, c, scale, L, W, seed):
    x, storage = tokens(L, W, seed), Integer(bits, (r, c), scale)
    y = storage.load(storage.store(x))
    for i in range(0, L // r * r, r):
        for j in range(0, W, c or W):
            box = (slice(None), slice(i, i + r), slice(j, j + (c or W)))
            low, high = x[box].amin((1, 2)), x[box].amax((1, 2))
            # What the ends move by when least value and step are rounded, which codes cannot make good.
            moved = (low.abs() + 2 * (high - low)) * torch.finfo(scale).eps + 2**bits * torch.finfo(
                scale
            ).smallest_normal
            allowed = (high - low) / (2**bits - 1) / 2 + moved
            assert bool(((y[box] - x[box]).abs().amax((1, 2)) <= allowed * (1 + 2**-20)).all())
    assert torch.equal(y[:, L // r * r :], x[:, L // r * r :].bfloat16().float())


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.integers(0, 20), st.integers(0, 99))
def test_codes_are_really_packed(bits, W, seed):
    codes = torch.randint(0, 2**bits, (3, W), generator=torch.Generator().manual_seed(seed)).byte()
    data = packed(codes, bits)
    assert data.shape == (3, -(-W * bits // 8))
    assert torch.equal(unpacked(data, bits, W), codes)


def test_the_first_of_two_codes_has_the_low_bits():
    assert packed(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 4).tolist() == [[0x21, 0x03]]


def test_flashmla_s_bytes_are_the_kernel_s():
    x = tokens(5, 576)[0]
    stored = FlashMLA().store(x)
    assert torch.equal(stored.parts[0], paged_cache.quantized(x[:, :512], x[:, 512:]))
    assert torch.equal(FlashMLA().load(stored), paged_cache.dequantized(stored.parts[0], torch.float32))
    split = kv_formats.Split(512, E4M3(128, kv_formats.RELEASED))
    assert torch.equal(split.load(split.store(x)), FlashMLA().load(stored))
    assert stored.nbytes / 5 == kv.bytes_per_token_and_layer(load("deepseek-v3")[1], "fp8_flashmla")
    with pytest.raises(BadInput, match="576"):
        FlashMLA().store(x[:, 1:])


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["fp8", "fp8-16", "int8", "int4-channel", "int8-box"])
def test_a_box_that_holds_nan_or_infinity_loads_as_nan_and_no_other(name, bad):
    storage, x = STORAGES[name], tokens(66, 32, heads=1)
    x[0, 33, 17] = bad
    wrong = storage.load(storage.store(x))[0].isnan()
    r, c = storage.box if isinstance(storage, Integer) else (1, storage.columns)
    c = c or 32
    want = torch.zeros(66, 32, dtype=torch.bool)
    want[33 // r * r : 33 // r * r + r, 17 // c * c : 17 // c * c + c] = True
    assert torch.equal(wrong, want)


@pytest.mark.parametrize("bad", BAD)
def test_bfloat16_keeps_what_is_not_finite_to_itself(bad):
    x = torch.zeros(3, 4)
    x[1, 2] = bad
    assert torch.equal(BF16().load(BF16().store(x)), x) or bad != bad
    assert int((~BF16().load(BF16().store(x)).isfinite()).sum()) == 1


def test_what_scales_cannot_hold_is_nan_not_a_wrong_number():
    x = torch.full((2, 4), 1e6)
    assert bool(Integer(8).load(Integer(8).store(x)).isnan().all())
    wide = Integer(8, (1, 0), torch.float32)
    assert torch.allclose(wide.load(wide.store(x)), x)


@pytest.mark.parametrize("name", sorted(STORAGES))
def test_zeros_and_constants_come_back(name):
    storage = STORAGES[name]
    for value in (0.0, 0.5, -3.0):  # all of them numbers that bfloat16 and float16 hold
        x = torch.full((1, 40, 8), value)
        y = storage.load(storage.store(x))
        assert torch.allclose(y, x[:, : y.shape[1]], rtol=1e-6, atol=0)


def test_steps_too_small_for_their_type_give_the_least_value():
    x = torch.tensor([[1.0, 1.0 + 2**-22]])
    assert Integer(4).load(Integer(4).store(x)).tolist() == [[1.0, 1.0]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 9))
def test_a_window_keeps_the_last_tokens_and_the_first_ones(L, last, sinks):
    window, x = Window(last, sinks), torch.arange(float(L))[:, None]
    want = sorted({*range(min(sinks, L)), *range(max(L - last, 0), L)})
    assert window.kept(L).tolist() == want == window.load(window.store(x)).flatten().tolist()
    assert len(want) == kv.kept_tokens(L, last, sinks)


def test_formats_by_name():
    keys, values = kv_formats.gqa("int4-kivi")
    assert (keys, values) == (Integer(4, (32, 1)), Integer(4))
    assert kv_formats.gqa("int8-token") == (Integer(8), Integer(8))
    assert kv_formats.mla("fp8", 512) == FlashMLA()
    assert kv_formats.mla("int4-channel", 32, window=9) == Window(9, 0, Split(32, Integer(4, (32, 1))))
    for name in kv_formats.MLA:
        x = tokens(33, 48)
        storage = kv_formats.mla(name, 32)
        assert torch.equal(storage.load(storage.store(x))[..., 32:], x[..., 32:].bfloat16().float())


@pytest.mark.parametrize(
    "make, what",
    [
        (lambda: kv_formats.mla("int3", 512), "format 'int3'"),
        (lambda: kv_formats.gqa("int4-channel"), "format 'int4-channel'"),
        (lambda: Integer(3), "integers of 3 bits"),
        (lambda: Integer(4, (0, 1)), "box"),
        (lambda: Window(0), "a window of 0 tokens"),
        (lambda: Window(1, -1), "-1 sinks"),
    ],
)
def test_what_does_not_exist_is_refused(make, what):
    with pytest.raises(BadInput, match=what):
        make()
