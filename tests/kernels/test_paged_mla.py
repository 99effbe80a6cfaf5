"""MLA decode over pages and over contiguous latents: the definition's numbers, whatever lies beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from v3bench.kernels import attention, mla_decode, paged_cache, paged_mla
from v3bench.kernels.launch import Config
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.check import check, poisoned, seeded
from v3bench.suite.trials.registry import load

MANY = {"BLOCK_H": 64, "BLOCK_N": 32, "TAIL": 16, "PER_SM": 1, "SPLITS": 1, "num_warps": 8, "num_stages": 2}
FEW = {"BLOCK_H": 16, "BLOCK_N": 64, "TAIL": 16, "PER_SM": 1, "SPLITS": 1, "num_warps": 4, "num_stages": 2}
EXACT = {**paged_mla.WIDE, "PART": 16}
FORMS = pytest.mark.parametrize("config", [MANY, FEW, EXACT], ids=["many", "few", "exact"])
NAN = pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of the interpreter's maximum
INFINITE = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # and of its product
CASES = [(op, shape) for op in ("paged_mla", "paged_mla_fp8") for shape in load(op).small]


def made(lengths: list[int], op: str = "paged_mla", unused: int = 0xFF, **shape: int) -> dict[str, Any]:
    """Inputs of rows of these lengths, narrow where the layout allows; unused slots hold a byte: NaN by default."""
    widths = {"C": shape.pop("C", 32), "R": shape.pop("R", 8)} if op == "paged_mla" else {}
    inputs = seeded(load(op), {"B": len(lengths), "S": 1, "H": 3, "L": 128, **widths, **shape}, "cpu")
    pages, table = inputs["pages"], inputs["block_table"].clamp(min=0)
    pages.copy_(paged(op, pages.shape[0], **widths))
    for b, length in enumerate(lengths):
        for entry in range(table.shape[1]):
            pages.view(torch.uint8)[table[b, entry], min(max(length - 64 * entry, 0), 64) :] = unused
    return {**inputs, "block_table": table, "lengths": torch.tensor(lengths, dtype=torch.int32)}


def paged(op: str, count: int, C: int = 512, R: int = 64) -> torch.Tensor:
    """Pages full of tokens."""
    tokens = torch.randn(count * 64, C + R).bfloat16()
    full = paged_cache.quantized(tokens[:, :C], tokens[:, C:]) if op == "paged_mla_fp8" else tokens
    return full.view(count, 64, -1)


def ours(inputs: dict[str, Any], config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    with poisoned():
        return paged_mla.paged_mla(**inputs, config=config)


@pytest.mark.parametrize(("op", "shape"), CASES, ids=str)
def test_equals_the_oracle(op: str, shape: dict[str, int]) -> None:
    trial = load(op)
    inputs = seeded(trial, shape, "cpu")
    assert check(trial, inputs, lambda **given: trial.ours(**given, config=trial.small_config)) <= 1


@pytest.mark.parametrize("splits", [1, 3])
@FORMS
def test_rows_of_any_length_in_any_number_of_splits(config: Config, splits: int) -> None:
    inputs = made([128, 0, 1, 65], S=2)
    want = load("paged_mla").oracle(**inputs)
    out, lse = ours(inputs, {**config, "SPLITS": splits})
    assert rounding_error(out, want[0], torch.bfloat16) <= 1
    assert (lse.isneginf() == want[1].isneginf()).all()
    torch.testing.assert_close(lse, want[1].float(), rtol=0, atol=1e-4)
    assert (out[1] == 0).all()  # a row without tokens
    assert (out[2, 0] == 0).all()  # a query before the first token
    assert lse[1].isneginf().all()


@pytest.mark.parametrize("config", [MANY, FEW], ids=["many", "few"])
def test_fp8_rows_of_any_length(config: Config) -> None:
    inputs = made([70, 0], "paged_mla_fp8", S=2, H=1)
    want = load("paged_mla_fp8").oracle(**inputs)
    assert load("paged_mla_fp8").error(ours(inputs, config), want, inputs) <= 1


@pytest.mark.parametrize("rows", [(1, 64), (2, 40)])
def test_more_query_rows_than_a_block(rows: tuple[int, int]) -> None:
    inputs = made([40], S=rows[0], H=rows[1])
    assert rounding_error(ours(inputs, MANY)[0], load("paged_mla").oracle(**inputs)[0], torch.bfloat16) <= 1


def test_queries_see_the_tokens_up_to_themselves() -> None:
    inputs = made([70], S=3)
    together = ours(inputs, FEW)
    for s in range(3):
        alone = {**inputs, "q": inputs["q"][:, s : s + 1], "lengths": inputs["lengths"] - 2 + s}
        want = load("paged_mla").oracle(**alone)
        assert rounding_error(together[0][:, s : s + 1], want[0], torch.bfloat16) <= 1


@INFINITE
@FORMS
def test_a_padded_latent_is_not_multiplied_by_its_neighbour(config: Config) -> None:
    """A tile of 32 channels reads 8 of the rope key behind 24 of the latent; an infinite one there has weight 0."""
    inputs = made([3], C=24, R=8)
    inputs["q"][..., 24], inputs["pages"][inputs["block_table"][0, 0], 1, 24] = -1, torch.inf  # a score of -inf
    want = load("paged_mla").oracle(**inputs)[0]
    assert want.isfinite().all()
    assert rounding_error(ours(inputs, config)[0], want, torch.bfloat16) <= 1


@pytest.mark.parametrize("op", ["paged_mla", "paged_mla_fp8"])
def test_what_lies_in_unused_slots_and_entries_does_not_matter(op: str) -> None:
    want = ours(made([70, 3], op, H=1), FEW)
    inputs = made([70, 3], op, H=1, unused=0)
    inputs["block_table"][1, 1] = -7
    assert all(torch.equal(a, b) for a, b in zip(ours(inputs, FEW), want, strict=True))


@NAN
@FORMS
def test_a_spoiled_row_spoils_no_other(config: Config) -> None:
    inputs = made([70, 66])
    want = ours(inputs, config)
    inputs["pages"][inputs["block_table"][0, 0], 3, 1] = torch.nan
    inputs["q"][1, 0, 2, 0] = torch.nan
    out, lse = ours(inputs, config)
    assert out[0].isnan().all()
    assert out[1, 0, 2].isnan().all()
    assert lse[0].isnan().all()
    assert torch.equal(out[1, 0, :2], want[0][1, 0, :2])


@NAN
@pytest.mark.parametrize("op", ["paged_mla", "paged_mla_fp8"])
@pytest.mark.parametrize("entry", [-1, 10**6])
def test_a_page_that_is_not_there_makes_its_row_nan(op: str, entry: int) -> None:
    inputs = made([70, 3], op, H=1)
    want = ours(inputs, FEW)
    inputs["block_table"][0, 1] = entry
    out, lse = ours(inputs, FEW)
    assert out[0].isnan().all()
    assert lse[0].isnan().all()
    assert torch.equal(out[1], want[0][1])


@NAN
@FORMS
def test_a_length_beyond_the_table_makes_its_row_nan_and_a_negative_one_empty(config: Config) -> None:
    inputs = made([128, 3, 5])
    inputs["lengths"] = torch.tensor([129, 3, -5], dtype=torch.int32)
    out, lse = ours(inputs, {**config, "SPLITS": 2})
    assert out[0].isnan().all()
    assert out[1].isfinite().all()
    assert (out[2] == 0).all()
    assert lse[2].isneginf().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("S", "lengths"), [(1, None), (2, [9, 70])])
def test_contiguous_latents_give_the_same_operation(dtype: torch.dtype, S: int, lengths: list[int] | None) -> None:
    """Over a view of a larger cache whose other slots are NaN, as model_ref's cache would give it."""
    cache = torch.full((2, 90, 24), torch.nan, dtype=dtype)
    cache[:, :70] = torch.randn(2, 70, 24).to(dtype)
    latents, q = cache[:, :70], torch.randn(2, S, 3, 24).to(dtype)
    ends = None if lengths is None else torch.tensor(lengths)
    config = paged_mla.WIDE if dtype == torch.float32 else FEW
    call = {"value_dim": 16, "scale": 0.3, "lengths": ends}
    with poisoned():
        got = paged_mla.mla_decode(q, latents, **call, config=config)
    want = mla_decode.reference(q.double(), latents.double(), **call)
    assert got.dtype == dtype
    assert rounding_error(got, want, torch.bfloat16 if dtype != torch.float32 else torch.float32, roundings=8) <= 1


def test_strided_queries() -> None:
    inputs = made([70], H=4)
    wide = torch.randn(1, 1, 8, 40).bfloat16()
    inputs["q"] = wide[:, :, ::2]
    want = load("paged_mla").oracle(**{**inputs, "q": inputs["q"].contiguous()})
    assert rounding_error(ours(inputs, FEW)[0], want[0], torch.bfloat16) <= 1


def test_equals_attention_over_one_shared_head() -> None:
    inputs = made([70, 9])
    tokens = paged_cache.gathered(inputs["pages"], inputs["block_table"]).double().nan_to_num(0)
    q, key, value = inputs["q"].double(), tokens.unsqueeze(2), tokens[..., None, :32]
    want = attention.reference(q, key, value, scale=inputs["scale"], lengths=inputs["lengths"])
    torch.testing.assert_close(load("paged_mla").oracle(**inputs)[0], want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 1, 3, 40)}, "paged_mla: pages is bfloat16, expected float32"),
        ({"q": torch.zeros(2, 1, 3, 40, dtype=torch.float64)}, "paged_mla: q is float64, expected bfloat16 or"),
        ({"q": torch.zeros(2, 3, 40).bfloat16()}, r"paged_mla: q has shape \(2, 3, 40\)"),
        ({"q": torch.zeros(3, 1, 3, 40).bfloat16()}, r"block_table has shape \(2, 2\), expected \(3, any\)"),
        ({"pages": torch.zeros(4, 32, 40).bfloat16()}, r"pages has shape \(4, 32, 40\), expected \(any, 64, 40\)"),
        ({"pages": torch.zeros(4, 64, 656, dtype=torch.uint8)}, "paged_mla_fp8: "),
        ({"block_table": torch.zeros(2, 2)}, "block_table is float32, expected int32"),
        ({"lengths": torch.zeros(2)}, "lengths is float32, expected int32"),
        ({"value_dim": 36}, "value_dim is 36, expected a multiple of 8 below the queries' width 40"),
        ({"value_dim": 40}, "value_dim is 40"),
        ({"q": torch.zeros(2, 1, 3, 40).bfloat16().requires_grad_()}, "paged_mla: has no gradient"),
        ({"pages": torch.zeros(4, 64, 41).bfloat16()[..., 1:]}, "rows that do not start at multiples of 16 bytes"),
    ],
)
def test_bad_input_is_one_clear_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paged_mla.paged_mla(**{**made([70, 3]), **change}, config=FEW)


def test_latents_whose_rows_span_too_much_are_refused() -> None:
    latents = torch.empty(1, 2**20, 8, 512, dtype=torch.bfloat16, device="meta")[:, :, 0]
    q = torch.empty(1, 1, 4, 512, dtype=torch.bfloat16, device="meta")
    with pytest.raises(ValueError, match=r"mla_decode: latents has strides .* 2\^31 - 1 elements"):
        paged_mla.mla_decode(q, latents, value_dim=448, scale=1.0)


def test_no_rows_no_pages_and_meta_tensors() -> None:
    none = {**made([70, 3]), "block_table": torch.zeros(2, 0, dtype=torch.int32)}
    out, lse = ours(none, FEW)
    assert (out == 0).all()
    assert lse.isneginf().all()
    empty = {name: x[:0] if name in ("q", "block_table", "lengths") else x for name, x in none.items()}
    assert ours(empty, FEW)[0].shape == (0, 1, 3, 32)
    meta = {name: x.to("meta") if isinstance(x, torch.Tensor) else x for name, x in made([70, 3]).items()}
    assert paged_mla.paged_mla(**meta, config=FEW)[0].shape == (2, 1, 3, 32)


def test_splits_fill_the_gpu_in_whole_waves() -> None:
    """132 SMs, one program each: 66 sequences of two blocks need no splits, one sequence wants about 66."""
    config = {"BLOCK_H": 64, "BLOCK_N": 64, "PER_SM": 1}
    assert paged_mla.splits_of(66, 128, 8192, config, 132) == 1
    assert paged_mla.splits_of(128, 128, 8192, config, 132) == 1  # 256 programs in two waves of 132
    assert 2 * paged_mla.splits_of(1, 128, 32768, config, 132) in range(100, 133)
    assert paged_mla.splits_of(1, 128, 64, config, 132) == 1  # a single tile
    assert paged_mla.splits_of(0, 128, 8192, {**config, "SPLITS": 7}, 132) == 7


GPU = [
    {"B": B, "S": S, "H": H, "L": L}
    for B, L in ((1, 1000), (1, 32768), (8, 1024), (32, 4096), (128, 700), (128, 8192))
    for S in (1, 2)
    for H in (16, 128)
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("op", ["paged_mla", "paged_mla_fp8"])
@pytest.mark.parametrize("shape", GPU, ids=str)
def test_on_a_gpu(op: str, shape: dict[str, int]) -> None:
    trial = load(op)
    assert check(trial, seeded(trial, shape, "cuda"), trial.ours) <= 1
