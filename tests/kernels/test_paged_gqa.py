"""Decoding over paged and contiguous keys and values: the definition's numbers, whatever lies beside them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from v3bench.kernels import attention, combine
from v3bench.kernels import paged_gqa as gqa
from v3bench.kernels.gqa_decode import gqa_decode, launches
from v3bench.kernels.launch import run
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.check import check, poisoned, seeded
from v3bench.suite.trials.registry import load
from v3bench.suite.trials.trial import Missing

CONFIG = {"BLOCK_N": 64, "PROGRAMS": 4, "num_warps": 4, "num_stages": 2}
NAN = pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of the interpreter's maximum
CASES = [(op, shape) for op in ("paged_gqa", "paged_gqa_fp8") for shape in load(op).small]


def launcher(inputs: dict[str, Any]) -> Any:
    return gqa.paged_gqa_fp8 if "k_scales" in inputs else gqa.paged_gqa


def made(op: str, lengths: list[int], **shape: int) -> dict[str, Any]:
    """Inputs of an operation, rows of these lengths."""
    inputs = seeded(load(op), {"B": len(lengths), "H": 4, "J": 2, "L": 128, "d": 16, **shape}, "cpu")
    return {**inputs, "lengths": torch.tensor(lengths, dtype=torch.int32)}


@pytest.mark.parametrize(("op", "shape"), CASES, ids=str)
def test_equals_the_oracle(op: str, shape: dict[str, int]) -> None:
    trial = load(op)
    inputs = seeded(trial, shape, "cpu")
    assert check(trial, inputs, lambda **given: trial.ours(**given, config=trial.small_config)) <= 1


@pytest.mark.parametrize("window", [None, 5, 80])
@pytest.mark.parametrize("op", ["paged_gqa", "paged_gqa_fp8"])
def test_rows_of_any_length_in_any_number_of_parts(op: str, window: int | None) -> None:
    inputs = made(op, [128, 0, 1, 65], S=2)
    want = load(op).oracle(**inputs, window=window)
    for programs in (1, 16):
        with poisoned():
            out, lse = launcher(inputs)(**inputs, window=window, config={**CONFIG, "PROGRAMS": programs})
        assert rounding_error(out, want[0], torch.bfloat16) <= 1
        assert (lse.isneginf() == want[1].isneginf()).all()
        torch.testing.assert_close(lse, want[1].float(), rtol=0, atol=1e-4)
        assert (out[1] == 0).all()  # a row without tokens
        assert (out[2, 0] == 0).all()  # a query before the first token
        assert lse[1].isneginf().all()


@pytest.mark.parametrize("op", ["paged_gqa", "paged_gqa_fp8"])
def test_what_lies_in_unused_slots_and_entries_does_not_matter(op: str) -> None:
    inputs = made(op, [70, 3])
    want = launcher(inputs)(**inputs, config=CONFIG)
    table, lengths = inputs["block_table"], inputs["lengths"]
    for name in ("k_pages", "v_pages", "k_scales", "v_scales"):
        if name in inputs:
            kept = inputs[name].float()
            for b, entry in ((0, 1), (1, 0)):
                kept[table[b, entry], lengths[b] % 64 :] = float("nan")
            kept[table[1, 1]] = float("nan")
            inputs[name] = kept.to(inputs[name].dtype)
    inputs["block_table"] = table.clone()
    inputs["block_table"][1, 1] = -7
    got = launcher(inputs)(**inputs, config=CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@NAN
@pytest.mark.parametrize("op", ["paged_gqa", "paged_gqa_fp8"])
def test_a_spoiled_row_spoils_no_other(op: str) -> None:
    inputs = made(op, [70, 66])
    want = launcher(inputs)(**inputs, config=CONFIG)
    page = inputs["block_table"][0, 0]
    if op == "paged_gqa":
        inputs["k_pages"][page, 3, 0, 1] = float("nan")
        inputs["v_pages"][page, 5, 1, 2] = float("inf")
    else:
        inputs["k_scales"][page, 3, 0] = float("nan")
        inputs["v_scales"][page, 5, 1] = float("inf")
    out, lse = launcher(inputs)(**inputs, config=CONFIG)
    assert torch.equal(out[1], want[0][1])
    assert torch.equal(lse[1], want[1][1])
    assert out[0, :, :2].isnan().all()  # the heads of key head 0
    assert lse[0, :, :2].isnan().all()
    assert not out[0, :, 2:].isfinite().all()
    inputs = made(op, [70, 66])
    inputs["q"][0, 0, 1, 4] = float("nan")
    out, _ = launcher(inputs)(**inputs, config=CONFIG)
    rest = [0, 2, 3]
    assert out[0, 0, 1].isnan().all()
    assert torch.equal(out[0, :, rest], want[0][0, :, rest])
    assert torch.equal(out[1], want[0][1])


@NAN
def test_what_cannot_be_read_is_nan() -> None:
    inputs = made("paged_gqa", [129, 70, -1])
    inputs["block_table"][1, 0] = len(inputs["k_pages"])
    for programs in (1, 12):
        out, lse = gqa.paged_gqa(**inputs, config={**CONFIG, "PROGRAMS": programs})
        assert out.isnan().all()
        assert lse.isnan().all()


def test_codes_are_used_at_every_magnitude() -> None:
    """One scale is 2^20 times another, queries are large: nothing overflows float16 or is lost in it."""
    inputs = made("paged_gqa_fp8", [60], S=1, H=2)
    inputs["q"] = inputs["q"] * 1e6
    inputs["k_scales"] = inputs["k_scales"] * 1e-6
    inputs["v_scales"][:, 1::2] *= 2.0**20
    inputs["v_scales"][:, ::4] *= 2.0**-10
    want = gqa.reference_fp8(**{**inputs, "q": inputs["q"].double()})
    out, lse = gqa.paged_gqa_fp8(**inputs, config=CONFIG)
    assert rounding_error(out, want[0], torch.bfloat16) <= 1
    torch.testing.assert_close(lse, want[1].float(), rtol=0, atol=1e-4)


def test_scales_per_head_are_scales_of_every_token() -> None:
    inputs = made("paged_gqa_fp8", [100, 7])
    per_head = {x: (torch.rand(2) + 0.5).expand(4, 64, 2) for x in ("k_scales", "v_scales")}
    got = gqa.paged_gqa_fp8(**{**inputs, **per_head}, config=CONFIG)
    want = gqa.paged_gqa_fp8(**{**inputs, **{x: s.contiguous() for x, s in per_head.items()}}, config=CONFIG)
    assert torch.equal(got[0], want[0])


CONTIGUOUS = {
    # name: (S, L, H, J, d, v, window, lengths)
    "one query": (1, 70, 4, 2, 8, 8, None, None),
    "several, rows of different lengths": (3, 70, 4, 1, 24, 12, None, [66, 3]),
    "a head each, a window": (2, 70, 3, 3, 16, 16, 9, [70, 68]),
    "a window over all rows": (4, 70, 2, 2, 16, 16, 66, None),
    "wider than a block": (4, 70, 20, 1, 16, 16, None, None),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", CONTIGUOUS)
def test_contiguous_form_is_attention(case: str, dtype: torch.dtype) -> None:
    S, L, H, J, d, v, window, lengths = CONTIGUOUS[case]
    q = torch.randn(2, H, S, d).to(dtype).transpose(1, 2)
    together = torch.randn(2, L + 3, 2 * J, d).to(dtype)  # a cache holds keys and values side by side
    k, value = together[:, 1 : L + 1, :J], together[:, 1 : L + 1, J:, :v]
    ends = None if lengths is None else torch.tensor(lengths)
    want = attention.reference(q.double(), k.double(), value.double(), scale=0.3, window=window, lengths=ends)
    with poisoned():
        got = gqa_decode(q, k, value, scale=0.3, window=window, lengths=ends, config=CONFIG)
    assert got.dtype == dtype
    assert rounding_error(got, want, dtype, roundings=1 if dtype == torch.bfloat16 else 100) <= 1


def test_parts_are_joined_as_the_whole() -> None:
    parts, lse = torch.randn(37, 3, 40), torch.randn(37, 3) * 3
    lse[:, 1], lse[5:, 2] = float("-inf"), float("-inf")
    parts[lse.isneginf()] = 0
    out, whole = torch.full((3, 40), float("nan")), torch.full((3,), float("nan"))
    run(combine.launches(parts, lse, out, whole))
    want = combine.reference(parts.double(), lse.double())
    torch.testing.assert_close(out.double(), want[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole.double(), want[1], rtol=1e-6, atol=1e-6)
    assert (out[1] == 0).all()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "dtype of q": ({"q": torch.zeros(2, 1, 4, 16, dtype=torch.int32)}, "paged_gqa: q is int32, expected bfloat16"),
    "pages of another dtype": ({"k_pages": torch.zeros(4, 64, 2, 16)}, "k_pages is float32, expected bfloat16"),
    "rank of q": ({"q": torch.zeros(2, 4, 16).bfloat16()}, r"q has shape \(2, 4, 16\)"),
    "other pages": ({"v_pages": torch.zeros(3, 64, 2, 16).bfloat16()}, r"v_pages has shape \(3, 64, 2, 16\)"),
    "page size": (
        {x: torch.zeros(4, 32, 2, 16).bfloat16() for x in ("k_pages", "v_pages")},
        "expected pages of 64 tokens",
    ),
    "heads": ({"q": torch.zeros(2, 1, 3, 16).bfloat16()}, "has 2 heads, expected a divisor of the 3"),
    "width": ({"q": torch.zeros(2, 1, 4, 8).bfloat16()}, r"k_pages has shape \(4, 64, 2, 16\), expected"),
    "table's dtype": ({"block_table": torch.zeros(2, 2)}, "block_table is float32, expected int32"),
    "table's rows": ({"block_table": torch.zeros(3, 2, dtype=torch.int32)}, r"block_table has shape \(3, 2\)"),
    "lengths": ({"lengths": torch.zeros(2)}, "lengths is float32, expected int32 or int64"),
    "window": ({"window": 0}, "window is 0, expected at least 1"),
    "gradient": ({"q": torch.zeros(2, 1, 4, 16, dtype=torch.bfloat16, requires_grad=True)}, "has no gradient"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(case: str) -> None:
    change, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        gqa.paged_gqa(**{**made("paged_gqa", [70, 3]), **change}, config=CONFIG)


def test_bad_scales_and_rows_are_clear_errors() -> None:
    inputs = made("paged_gqa_fp8", [70, 3])
    with pytest.raises(ValueError, match=r"v_scales is float32 \(4, 64\), expected float32 \(4, 64, 2\)"):
        gqa.paged_gqa_fp8(**{**inputs, "v_scales": torch.zeros(4, 64)}, config=CONFIG)
    with pytest.raises(ValueError, match=r"q is float32, expected bfloat16 or float16"):
        gqa.paged_gqa_fp8(**{**inputs, "q": inputs["q"].float()}, config=CONFIG)
    q, k = torch.zeros(2, 1, 2, 8), torch.zeros(3, 5, 2, 8)
    with pytest.raises(ValueError, match=r"gqa_decode: k has shape \(3, 5, 2, 8\), expected the 2 rows of q"):
        gqa_decode(q, k, k, scale=1.0, config=CONFIG)
    far = torch.empty_strided((2, 5, 2, 8), (16, 2**30, 8, 1), device="meta")
    with pytest.raises(ValueError, match="must lie within 2\\^31 elements"):
        gqa_decode(q, far, far, scale=1.0, config=CONFIG)


def test_empty_tensors_give_empty_or_zero_results() -> None:
    inputs = made("paged_gqa", [0, 0])
    out, lse = gqa.paged_gqa(**{**inputs, "block_table": torch.zeros(2, 0, dtype=torch.int32)}, config=CONFIG)
    assert (out == 0).all()
    assert lse.isneginf().all()
    none = torch.zeros(0, 1, 4, 8)
    assert gqa_decode(none, none, none, scale=1.0, config=CONFIG).shape == (0, 1, 4, 8)
    assert (
        gqa_decode(torch.ones(1, 1, 4, 8), none.view(1, 0, 4, 8), none.view(1, 0, 4, 8), scale=1.0, config=CONFIG) == 0
    ).all()


def test_torchs_attention_over_a_contiguous_copy_answers_the_same() -> None:
    trial, inputs = load("paged_gqa"), made("paged_gqa", [128, 128])
    assert trial.error(gqa.reference(**inputs), trial.oracle(**inputs), inputs) <= 1
    sdpa = trial.rivals["sdpa"]
    assert sdpa.error is not None
    assert sdpa.error(sdpa.build(inputs)(), trial.oracle(**inputs), inputs) <= 1
    with pytest.raises(Missing, match="one query a row"):
        sdpa.build(made("paged_gqa", [128], S=2))


@pytest.mark.parametrize("op", ["paged_gqa", "paged_gqa_fp8"])
def test_rivals_that_are_not_there_say_so(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, rivals = made(op, [128]), load(op).rivals
    for name, package in (("flashinfer", "flashinfer"), ("flash_attention_3", "flash_attn_interface")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(Missing, match=f"{package} cannot be imported"):
            rivals[name].build(inputs)
    for name in {"cudnn", "flash"} & rivals.keys():
        with pytest.raises(Missing, match="needs a CUDA device"):
            rivals[name].build(inputs)


def test_heads_padded_to_a_power_of_two_count_padded() -> None:
    """192 wide, keys and values take the room of 256, which three stages of 64 rows do not leave."""
    q, k = (torch.empty(1, n, heads, 192, dtype=torch.bfloat16, device="meta") for n, heads in ((4, 64), (4096, 4)))
    lse, config = torch.empty(1, 4, 64, device="meta"), gqa.CANDIDATES["paged_gqa"][0]
    first, *_ = launches(q, k, k, torch.empty_like(q), lse, scale=1.0, window=None, config=config)
    assert (config["num_stages"], first.options["num_stages"]) == (3, 2)


def test_meta_tensors_give_shapes_without_work() -> None:
    inputs = seeded(load("paged_gqa_fp8"), {"B": 4, "H": 8, "J": 2, "L": 8192}, "meta")
    out, lse = gqa.paged_gqa_fp8(**inputs, config=CONFIG)
    assert out.shape == (4, 1, 8, 128)
    assert lse.shape == (4, 1, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("S", [1, 2, 4])
@pytest.mark.parametrize("shape", gqa.SHAPES, ids=str)
@pytest.mark.parametrize("op", ["paged_gqa", "paged_gqa_fp8"])
def test_equals_the_oracle_at_the_shapes_of_models(op: str, shape: tuple[int, ...], S: int) -> None:
    trial = load(op)
    inputs = seeded(trial, {**dict(zip("BHJL", shape, strict=True)), "S": S}, "cuda")
    inputs["lengths"] -= torch.arange(len(inputs["lengths"]), device="cuda", dtype=torch.int32) * 7
    for config in gqa.CANDIDATES[op][:4]:
        assert check(trial, inputs, lambda config=config, **given: trial.ours(**given, config=config)) <= 1
