"""Order, permute, unpermute: the stable sort's own result; padding is zero; what has no row adds nothing."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels import order, permute, quantize
from v3bench.kernels.order import Order
from v3bench.suite.trials.check import check, poisoned, same_bits, seeded
from v3bench.suite.trials.registry import load

SMALL = {"BLOCK": 64, "STEP": 2, "num_warps": 4}
CONFIG = {"BLOCK": 64, "num_warps": 4}
CASES = [(op, shape) for op in ("permute", "unpermute") for shape in load(op).small]


@pytest.mark.parametrize(("op", "shape"), CASES, ids=str)
def test_equals_the_definition(op: str, shape: dict[str, int]) -> None:
    trial = load(op)
    inputs = seeded(trial, shape, "cpu")
    assert check(trial, inputs, lambda **given: trial.ours(**given, config=trial.small_config)) <= 1


@pytest.mark.parametrize("align", [1, 8, 128])
@pytest.mark.parametrize("T, K, E", [(37, 8, 16), (5, 3, 5), (7, 2, 1), (64, 1, 30)])
def test_order_of_many_blocks_of_strangers_and_of_idle_experts(T: int, K: int, E: int, align: int) -> None:
    chosen = torch.randint(0, E, (T, K))
    chosen[chosen == E // 2] = 0  # one expert without rows, another with many
    chosen[1], chosen[2, 0], chosen[3, 0], chosen[4, 0] = -1, E, 2**32, -(2**40)  # no experts here
    want = order.reference(chosen, E, align)
    for given in (chosen, chosen.clamp(-1, E).int()):
        with poisoned():
            got = order.order(given, E, align=align, config=SMALL)
        assert same_bits(got.parts, (want if given is chosen else order.reference(given, E, align)).parts)


def test_an_order_holds_every_choice_once_in_the_order_of_tokens() -> None:
    chosen = torch.rand(50, 32).topk(4).indices
    made = order.order(chosen, 32, align=16, config=SMALL)
    held = made.pairs[made.pairs >= 0]
    assert held.sort().values.tolist() == list(range(200))
    assert torch.equal(made.tokens, torch.where(made.pairs < 0, -1, made.pairs // 4))
    assert (made.offsets % 16 == 0).all()
    for e, (start, end) in enumerate(zip([0, *made.offsets.tolist()], made.offsets.tolist(), strict=False)):
        own = made.tokens[start:end]
        real = own[own >= 0]
        assert real.tolist() == (chosen == e).any(1).nonzero().flatten().tolist()  # ascending: stable
        assert (own[len(real) :] == -1).all()
    assert torch.equal(made.pairs[made.rows.flatten().long()], torch.arange(200, dtype=torch.int32))


def padded() -> Order:
    """Of 17 tokens among 16 experts, with a choice that has no row, padded to 16."""
    chosen = torch.rand(17, 16).topk(3).indices
    chosen[1, 1] = -1
    return order.reference(chosen, 16, 16)


def test_padding_is_zero_in_rows_and_scales() -> None:
    made, x = padded(), torch.randn(17, 384)
    for given, scales in ((quantize.reference_tiles(x)), (x.bfloat16(), None), (x, torch.rand(17, 3))):
        want = permute.reference_permute(given, made, scales)
        with poisoned():
            got = permute.permute(given, made, scales, config=CONFIG)
        assert same_bits(got, want)
    codes, scales = permute.permute(*reversed_arguments(x, made), config=CONFIG)
    assert not codes.float()[made.tokens < 0].any()
    assert not scales[made.tokens < 0].any()
    assert scales.stride() == (1, len(made.tokens))  # by column, as GEMMs read them


def reversed_arguments(x: torch.Tensor, made: Order) -> tuple[torch.Tensor, Order, torch.Tensor]:
    """(codes, order, scales) for x, the scales by column as the quantiser leaves them."""
    codes, scales = quantize.quantize_tiles(x, config={"ROWS": 4, "num_warps": 4})
    return codes, made, scales


def test_gradients_equal_autograd_of_the_definitions() -> None:
    made = padded()
    y = torch.randn(len(made.tokens), 136, requires_grad=True)
    gates = torch.rand(17, 3, requires_grad=True)
    x = torch.randn(17, 136, requires_grad=True)
    to_tokens, to_rows = torch.randn(17, 136), torch.randn(len(made.tokens), 136)
    for its in (gates, None):
        wanted = [y] if its is None else [y, gates]
        want = torch.autograd.grad(permute.reference_unpermute(y, made, its), wanted, to_tokens)
        out = permute.unpermute(y, made, its, config=CONFIG)
        with poisoned():
            got = torch.autograd.grad(out, wanted, to_tokens)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # float32, sums of 136 in another order
    (want,) = torch.autograd.grad(permute.reference_permute(x, made), x, to_rows)
    with poisoned():
        (got,) = torch.autograd.grad(permute.permute(x, made, config=CONFIG), x, to_rows)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_nan_in_one_row_stays_with_its_token() -> None:
    made = padded()
    y, gates = torch.randn(len(made.tokens), 128), torch.rand(17, 3)
    y[made.tokens < 0] = float("nan")  # padding is nobody's
    y[made.rows[5, 1]] = float("inf")
    y[made.rows[5, 2], 7] = float("nan")
    gates[1, 1] = float("nan")  # of the choice that has no row
    out = permute.unpermute(y, made, gates, config=CONFIG)
    assert out[5].isinf().sum() == 127
    assert out[5, 7].isnan()
    assert out[torch.arange(17) != 5].isfinite().all()


def test_a_sum_keeps_its_order() -> None:
    """Float32 in the order of the choices: 1e8 + 1 - 1e8 is 0, 1e8 - 1e8 + 1 is 1."""
    made = order.reference(torch.tensor([[0, 1, 2], [0, 2, 1]]), 3)
    y = torch.empty(6, 8)
    y[made.rows.flatten().long()] = torch.tensor([1e8, 1, -1e8, 1e8, -1e8, 1])[:, None].expand(6, 8)
    out = permute.unpermute(y, made, config=CONFIG)
    assert torch.equal(out, torch.tensor([[0.0], [1.0]]).expand(2, 8))


def test_no_tokens_give_empty_results() -> None:
    made = order.order(torch.empty(0, 8, dtype=torch.int64), 4)
    assert made.offsets.tolist() == [0, 0, 0, 0]
    assert permute.permute(torch.empty(0, 128), made, config=CONFIG).shape == (0, 128)
    assert permute.unpermute(torch.empty(0, 128), made, config=CONFIG).shape == (0, 128)


def test_meta_tensors_give_shapes_without_work() -> None:
    chosen = torch.empty(4096, 8, device="meta", dtype=torch.int64)
    made = order.order(chosen, 256, align=128)
    R = (4096 * 8 + 256 * 127) // 128 * 128
    x = torch.empty(4096, 7168, device="meta", dtype=torch.bfloat16)
    assert permute.permute(x, made, config=CONFIG).shape == (R, 7168)
    assert permute.unpermute(permute.permute(x, made, config=CONFIG), made, config=CONFIG).shape == (4096, 7168)


CHOSEN = torch.zeros(4, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("chosen", "E", "align", "message"),
    [
        (CHOSEN.float(), 4, 1, "order: chosen is float32, expected int64 or int32"),
        (CHOSEN[0], 4, 1, r"order: chosen has shape \(2,\), expected \(any, any\)"),
        (CHOSEN.T, 4, 1, "expected a contiguous tensor"),
        (CHOSEN, 0, 1, "order: E is 0, expected 1 to 1024 experts"),
        (CHOSEN, 4, 100, "order: align is 100, expected a power of two"),
        (torch.empty(2**26, 8, dtype=torch.int32, device="meta"), 4, 1, "more than 268435456 rows"),
    ],
)
def test_bad_choices_are_one_clear_error(chosen: torch.Tensor, E: int, align: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        order.order(chosen, E, align=align)


def test_bad_rows_are_one_clear_error() -> None:
    made = order.reference(CHOSEN, 4)
    with pytest.raises(ValueError, match=r"permute: x has shape \(5, 128\), expected \(4, any\)"):
        permute.permute(torch.zeros(5, 128), made)
    with pytest.raises(ValueError, match="permute: x has rows that do not start at multiples of 16 bytes"):
        permute.permute(torch.zeros(4, 3), made)
    with pytest.raises(ValueError, match="permute: x has rows of 12 bytes, expected a multiple of 16"):
        permute.permute(torch.zeros(1, 3), order.reference(CHOSEN[:1], 4))
    with pytest.raises(ValueError, match=r"permute: scales is float32 \(4, 2\), expected float32 \(4, 1\)"):
        permute.permute(torch.zeros(4, 128), made, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="codes with scales have none"):
        permute.permute(torch.zeros(4, 128, requires_grad=True), made, torch.zeros(4, 1), config=CONFIG)
    with pytest.raises(ValueError, match=r"unpermute: y has shape \(9, 128\), expected \(8, any\)"):
        permute.unpermute(torch.zeros(9, 128), made)
    with pytest.raises(ValueError, match="unpermute: gates is float64, expected float32"):
        permute.unpermute(torch.zeros(8, 128), made, torch.zeros(4, 2).double())


ORDERED = order.reference(CHOSEN, 4)  # 4 tokens, 2 choices each, all of expert 0: 8 rows


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("rows", ORDERED.rows.long(), "order: rows is int64, expected int32"),
        ("rows", ORDERED.rows[0], r"order: rows has shape \(2,\), expected \(any, any\)"),
        ("rows", ORDERED.rows.T, "order: rows has strides .* expected a contiguous tensor"),
        ("rows", [[0]], "order: rows is list, expected a tensor"),
        ("pairs", ORDERED.pairs.to("meta"), "order: tensors lie on cpu and meta; one device is needed"),
        ("pairs", ORDERED.pairs[:7], "order: pairs has 7 rows and tokens 8, expected 8 or more of both"),
        ("rows", torch.zeros(5, 2, dtype=torch.int32), "order: pairs has 8 rows and tokens 8, expected 10 or more"),
        ("rows", ORDERED.rows + 1, "order: rows has 1 to 8, expected -1 to 7"),
        ("rows", ORDERED.rows - 2, "order: rows has -2 to 5, expected -1 to 7"),
        ("pairs", ORDERED.pairs + 1, "order: pairs has 1 to 8, expected -1 to 7"),
        ("tokens", ORDERED.tokens + 1, "order: tokens has 1 to 4, expected -1 to 3"),
        ("offsets", ORDERED.offsets + 1, "order: offsets has 9 to 9, expected 0 to 8"),
        ("offsets", torch.tensor([8, 0], dtype=torch.int32), "order: offsets decrease"),
    ],
)
def test_an_order_built_by_hand_is_checked_as_it_is_built(part: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order(**{**vars(ORDERED), part: value})


def test_an_order_of_more_rows_than_int32_can_place_is_refused() -> None:
    rows = torch.empty(2**28 + 8, dtype=torch.int32, device="meta")
    with pytest.raises(ValueError, match="order: tokens has 268435464 rows, expected at most 268435456"):
        Order(offsets=rows[:4], rows=rows[:8].view(4, 2), pairs=rows, tokens=rows)


@pytest.mark.parametrize("row", [8, 2**31 - 1, -2, -(2**31)])
def test_kernels_do_not_follow_what_a_gpu_alone_knows_to_be_out_of_range(row: int) -> None:
    """The numbers change once the order is built, as if they had lain on a GPU, where building it reads none."""
    made = order.reference(CHOSEN, 4)
    whole = torch.randn(24, 16)  # 8 rows between others, that nothing may read or write
    whole[:8], whole[16:] = float("nan"), float("nan")
    y, gates = whole[8:16].requires_grad_(), torch.rand(4, 2, requires_grad=True)
    want = permute.reference_unpermute(y, made, gates)
    made.rows[1, 1] = row
    out = permute.unpermute(y, made, gates, config=CONFIG)
    others = torch.arange(4) != 1
    torch.testing.assert_close(out[others], want[others])
    left = want[1] - gates[1, 1] * y[3]
    torch.testing.assert_close(out[1], left if row < 0 else torch.full_like(left, float("nan")), equal_nan=True)
    dy, dgates = torch.autograd.grad(out, (y, gates), torch.ones_like(out))
    assert dgates[1, 1].isnan() if row > 0 else dgates[1, 1] == 0
    assert dy[torch.arange(8) != 3].isfinite().all()
    with poisoned():
        rows = permute.permute(whole[:4].nan_to_num(1.0), made, config=CONFIG)
    assert (rows[torch.arange(8) != 3] == 1).all()


def test_scales_of_a_token_that_is_not_there_are_nan() -> None:
    made = order.reference(CHOSEN, 4)
    made.tokens[5] = 4
    _, scales = permute.permute(torch.ones(4, 16).to(quantize.FP8), made, torch.ones(4, 1), config=CONFIG)
    assert scales[5].isnan()
    assert (scales[torch.arange(8) != 5] == 1).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("op", ["permute", "unpermute"])
@pytest.mark.parametrize("T", [1, 3, 128, 4096, 16384])
def test_full_shapes_on_a_gpu(op: str, T: int) -> None:
    trial = load(op)
    inputs = seeded(trial, {"T": T, "K": 8, "D": 7168}, "cuda")
    assert check(trial, inputs, trial.ours) <= 1
