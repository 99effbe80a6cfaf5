"""Causal attention of MLA's widths, forward and backward, and the general attention on the same kernels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from v3bench.kernels import attention, flash_attention, mla_prefill, mla_prefill_backward
from v3bench.kernels.attention_tiles import Mask, Widths
from v3bench.suite.trials.check import check, poisoned, same_bits, seeded
from v3bench.suite.trials.mla_prefill import SMALL_CONFIG, SMALL_GRADIENTS, TRIALS

# float32 sums of at most a few hundred exact products: measured 2e-7 to 1e-6 of the largest value.
EXACT = 1e-5
TRIAL_CASES = [(op, shape) for op in TRIALS for shape in TRIALS[op].small]
CASES: dict[str, dict[str, Any]] = {
    "square, MLA's unequal widths": {"S": 37, "L": 37, "H": 2, "J": 2, "d": 24, "v": 16},
    "widths of no power of two, rows the bulk copy cannot read": {"S": 7, "L": 7, "H": 2, "J": 2, "d": 12, "v": 10},
    "192 as 128 + 64": {"S": 20, "L": 20, "H": 1, "J": 1, "d": 192, "v": 128},
    "wider than 128, masked tail": {"S": 5, "L": 5, "H": 1, "J": 1, "d": 160, "v": 130},
    "one query over a cache": {"S": 1, "L": 19, "H": 4, "J": 2, "d": 8, "v": 8},
    "one query, rows of different lengths": {"S": 1, "L": 19, "H": 3, "J": 1, "d": 8, "v": 8, "lengths": [19, 4]},
    "several queries, rows of different lengths": {
        "S": 3, "L": 40, "H": 4, "J": 1, "d": 16, "v": 8, "lengths": [5, 40]
    },
    "a chunk after a cache": {"S": 20, "L": 45, "H": 1, "J": 1, "d": 16, "v": 16},
    "window in a square": {"S": 40, "L": 40, "H": 1, "J": 1, "d": 16, "v": 16, "window": 19},
    "window of two tokens": {"S": 18, "L": 18, "H": 1, "J": 1, "d": 16, "v": 16, "window": 2},
    "window over a cache": {"S": 2, "L": 40, "H": 2, "J": 1, "d": 16, "v": 16, "window": 4, "lengths": [39, 6]},
    "window wider than all": {"S": 5, "L": 5, "H": 2, "J": 2, "d": 16, "v": 16, "window": 50},
    "not causal": {"S": 20, "L": 36, "H": 2, "J": 1, "d": 16, "v": 16, "causal": False},
    "not causal, more queries than keys": {"S": 20, "L": 3, "H": 2, "J": 1, "d": 16, "v": 16, "causal": False},
    "not causal, lengths and window": {
        "S": 3, "L": 40, "H": 2, "J": 2, "d": 16, "v": 16, "causal": False, "lengths": [38, 17], "window": 18
    },
}  # fmt: skip


def made(case: dict[str, Any], dtype: torch.dtype = torch.float32, B: int = 2) -> tuple[list[Tensor], dict[str, Any]]:
    """q, k, v, d_out and what else attention is called with."""
    S, L, H, J, d, v = (case[name] for name in ("S", "L", "H", "J", "d", "v"))
    tensors = [torch.randn(B, *size).to(dtype) for size in ((S, H, d), (L, J, d), (L, J, v), (S, H, v))]
    lengths = case.get("lengths")
    given = {"causal": case.get("causal", True), "window": case.get("window"), "scale": 1.7 * d**-0.5}
    return tensors, given | {"lengths": None if lengths is None else torch.tensor(lengths)}


def masked(given: dict[str, Any]) -> dict[str, Any]:
    """The same as the launchers take it."""
    mask = Mask(given["causal"], given["window"], given["lengths"])
    return {"scale": given["scale"], "mask": mask}


def exact(tensors: list[Tensor], given: dict[str, Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The definition's output and gradients in float64."""
    q, k, v, d_out = (x.double() for x in tensors)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = attention.reference(*leaves, **given)
    return out.detach(), torch.autograd.grad(out, leaves, d_out)


def ours(tensors: list[Tensor], given: dict[str, Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The kernels' output and gradients, on poisoned memory."""
    leaves = [x.detach().requires_grad_() for x in tensors[:3]]
    with poisoned():
        out = flash_attention.attention(*leaves, **given)
        return out.detach(), torch.autograd.grad(out, leaves, tensors[3])


def off(got: Tensor, want: Tensor) -> float:
    """Largest difference over the largest value."""
    assert got.shape == want.shape
    return float((got.double() - want).abs().max() / want.abs().max())


@pytest.mark.parametrize(("op", "shape"), TRIAL_CASES, ids=str)
def test_trial_holds(op: str, shape: dict[str, int]) -> None:
    trial = TRIALS[op]
    assert check(trial, seeded(trial, shape, "cpu"), lambda **i: trial.ours(**i, config=trial.small_config)) <= 0.6


@pytest.mark.parametrize("case", CASES)
def test_float32_equals_the_definition_forward_and_backward(case: str) -> None:
    tensors, given = made(CASES[case])
    (out, grads), (want, wanted) = ours(tensors, given), exact(tensors, given)
    assert off(out, want) < EXACT
    assert [name for name, a, b in zip("qkv", grads, wanted, strict=True) if not off(a, b) < EXACT] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.3, 10.0])
def test_narrow_types_are_summed_wide(dtype: torch.dtype, scale: float) -> None:
    """At 10, scores are about 40, where bfloat16 has steps of a quarter: rounded ones would put weights far off."""
    tensors, given = made({"S": 3, "L": 50, "H": 2, "J": 1, "d": 16, "v": 16}, dtype, B=1)
    given["scale"] = scale
    (out, grads), (want, wanted) = ours(tensors, given), exact(tensors, given)
    assert out.dtype == dtype
    assert off(out, want) < torch.finfo(dtype).eps
    # Saturated weights have slopes that are small differences, to which out's own rounding comes through delta.
    bar = torch.finfo(dtype).eps * (2 if scale < 1 else 20)
    assert max(off(a, b) for a, b in zip(grads, wanted, strict=True)) < bar


def test_lse_is_the_logarithm_of_the_sum() -> None:
    (q, k, v, _), given = made(CASES["several queries, rows of different lengths"])
    _, lse = mla_prefill.forward(q, k, v, **masked(given), config=SMALL_CONFIG)
    _, want = mla_prefill.reference(q.double(), k.double(), v.double(), **given)
    assert (lse - want).abs().max() < EXACT


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_every_block_of_every_head_has_one_program(heads: int) -> None:
    (q, k, v, _), given = made({"S": 50, "L": 50, "H": 3, "J": 3, "d": 16, "v": 16}, B=1)
    with poisoned():
        out, lse = mla_prefill.forward(q, k, v, **masked(given), config={"BLOCK_M": 16, "BLOCK_N": 32, "HEADS": heads})
    want, want_lse = mla_prefill.reference(q.double(), k.double(), v.double(), **given)
    assert off(out, want) < EXACT
    assert off(lse, want_lse) < EXACT


@pytest.mark.parametrize(("m", "n"), [(16, 32), (32, 16)])
def test_unequal_blocks_mask_the_same_pairs(m: int, n: int) -> None:
    tensors, given = made({"S": 40, "L": 70, "H": 2, "J": 1, "d": 16, "v": 16, "lengths": [70, 45]})
    q, k, v, d_out = tensors
    want, wanted = exact(tensors, given)
    out, lse = mla_prefill.forward(q, k, v, **masked(given), config={"BLOCK_M": m, "BLOCK_N": n})
    config = SMALL_GRADIENTS | {"KEYS_M": m, "KEYS_N": n, "QUERIES_M": m, "QUERIES_N": n}
    grads = mla_prefill_backward.backward(q, k, v, out, lse, d_out, **masked(given), config=config)
    assert off(out, want) < EXACT
    assert max(off(a, b) for a, b in zip(grads, wanted, strict=True)) < EXACT


def test_definition_of_the_gradients_is_that_of_autograd() -> None:
    q, k, v, d_out = (torch.randn(2, 9, 3, d, dtype=torch.float64) for d in (6, 6, 4, 4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out, lse = mla_prefill.reference(*leaves, scale=0.4)
    want = torch.autograd.grad(out, leaves, d_out)
    got = mla_prefill_backward.reference(q, k, v, out, lse, d_out, scale=0.4)
    torch.testing.assert_close(got, want)


def test_repeats_give_the_same_bits() -> None:
    tensors, given = made({"S": 40, "L": 40, "H": 4, "J": 1, "d": 16, "v": 16}, torch.bfloat16, B=1)
    (out, grads), (again, repeated) = ours(tensors, given), ours(tensors, given)
    assert same_bits(out, again)
    assert same_bits(grads, repeated)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_that_sees_no_key_is_zero_and_has_no_gradient(dtype: torch.dtype) -> None:
    tensors, given = made({"S": 4, "L": 20, "H": 2, "J": 1, "d": 16, "v": 16, "lengths": [2, 0]}, dtype)
    out, grads = ours(tensors, given)
    _, lse = mla_prefill.forward(*tensors[:3], **masked(given), config=SMALL_CONFIG)
    blind = torch.tensor([[True, True, False, False], [True] * 4])
    assert torch.equal((lse == -math.inf), blind[:, None].expand_as(lse))
    assert not out[blind].any()
    assert not grads[0][blind].any()
    assert grads[1][0, :2].any()
    assert not grads[1][0, 2:].any()
    assert not grads[2][1].any()
    assert all(g.isfinite().all() for g in (out, *grads))


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, in the interpreter
def test_what_lies_beyond_a_length_reaches_nothing() -> None:
    case = {"S": 3, "L": 40, "H": 2, "J": 1, "d": 16, "v": 16, "lengths": [33, 7]}
    tensors, given = made(case)
    want, wanted = exact(tensors, given)
    for b, end in enumerate(case["lengths"]):
        tensors[1][b, end:], tensors[2][b, end:] = float("nan"), float("inf")
    out, grads = ours(tensors, given)
    assert off(out, want) < EXACT
    assert max(off(a, b) for a, b in zip(grads, wanted, strict=True)) < EXACT


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, in the interpreter
def test_nan_stays_with_those_that_see_it() -> None:
    (q, k, v, _), given = made({"S": 40, "L": 40, "H": 2, "J": 2, "d": 16, "v": 16})
    q[0, 5, 0] = float("nan")  # a query: its own row
    k[1, 21, 1] = float("inf")  # a key: the queries from it on
    out, lse = mla_prefill.forward(q, k, v, **masked(given), config=SMALL_CONFIG)
    spoiled = torch.zeros(2, 40, 2, dtype=torch.bool)
    spoiled[0, 5, 0] = spoiled[1, 21:, 1] = True
    assert torch.equal(out.isnan().any(-1), spoiled)
    assert not lse.transpose(1, 2)[~spoiled].isnan().any()


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, in the interpreter
def test_nan_in_a_value_stays_in_its_head_and_before_its_tile_unseen() -> None:
    (q, k, v, _), given = made({"S": 40, "L": 40, "H": 2, "J": 2, "d": 16, "v": 16})
    v[0, 35, 1] = float("nan")
    out, _ = mla_prefill.forward(q, k, v, **masked(given), config=SMALL_CONFIG)
    assert out[0, 35:, 1].isnan().all()
    assert out[0, :32].isfinite().all()
    assert out[0, :, 0].isfinite().all()
    assert out[1].isfinite().all()


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, in the interpreter
def test_nan_in_a_query_spoils_only_the_gradients_it_reaches() -> None:
    tensors, given = made({"S": 40, "L": 40, "H": 2, "J": 2, "d": 16, "v": 16})
    tensors[0][0, 5, 0] = float("nan")
    _, (dq, dk, dv) = ours(tensors, given)
    assert torch.equal(dq.isnan().any(-1).nonzero(), torch.tensor([[0, 5, 0]]))
    for grad in (dk, dv):
        assert grad[0, :6, 0].isnan().all()
        assert grad[0, 16:].isfinite().all()  # its tile may be spoiled, no other
        assert grad[0, :, 1].isfinite().all()
        assert grad[1].isfinite().all()


def test_views_are_read_where_they_lie() -> None:
    """Keys and values split from one projection, queries of another order, a repeated gradient."""
    both = torch.randn(2, 20, 2, 32 + 16)
    k, v = both.split([32, 16], dim=-1)
    q = torch.randn(2, 2, 20, 32).transpose(1, 2)
    given = {"scale": 0.3, "causal": True, "window": None, "lengths": None}
    tensors = [q, k, v, torch.ones(()).expand(2, 20, 2, 16)]
    (out, grads), (want, wanted) = ours(tensors, given), exact(tensors, given)
    assert off(out, want) < EXACT
    assert max(off(a, b) for a, b in zip(grads, wanted, strict=True)) < EXACT
    by_rows = flash_attention.attention(*(x.mT.contiguous().mT for x in (q, k, v)), scale=0.3)
    assert off(by_rows, want) < EXACT


@pytest.mark.parametrize(
    ("d", "v", "widths"),
    [
        (192, 128, (128, 64, 128)),
        (128, 128, (128, 0, 128)),
        (24, 16, (32, 0, 16)),
        (8, 8, (16, 0, 16)),
        (256, 256, (128, 128, 256)),
        (129, 5, (128, 16, 16)),
    ],
)
def test_wide_heads_are_cut_and_not_padded(d: int, v: int, widths: tuple[int, int, int]) -> None:
    assert Widths.of(d, v) == Widths(*widths)


def test_steps_beyond_int32_are_reckoned_outside_the_kernels() -> None:
    """A product of two int32 arguments would wrap there."""
    config = mla_prefill_backward.CANDIDATES["mla_prefill_backward"][0]
    first, *_ = mla_prefill_backward.example("mla_prefill_backward", {"B": 2, "H": 128, "S": 2**17}, config)
    assert first.args["out_by_batch"] == 2**31


def test_meta_tensors_give_shapes_without_work() -> None:
    q, k, v = (torch.empty(2, 6, 4, d, device="meta", dtype=torch.bfloat16) for d in (192, 192, 128))
    out, lse = mla_prefill.mla_prefill(q, k, v, scale=0.1, config=SMALL_CONFIG)
    assert out.shape == (2, 6, 4, 128)
    assert lse.shape == (2, 4, 6)
    grads = mla_prefill_backward.mla_prefill_backward(q, k, v, out, lse, out, scale=0.1, config=SMALL_GRADIENTS)
    assert [g.shape for g in grads] == [q.shape, k.shape, v.shape]
    assert flash_attention.attention(q, k, v, scale=0.1).shape == (2, 6, 4, 128)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_no_rows_and_no_queries_give_an_empty_result(shape: tuple[int, int]) -> None:
    B, S = shape
    q, k, v = (torch.randn(B, n, 2, 16, requires_grad=True) for n in (S, 5, 5))
    out = flash_attention.attention(q, k, v, scale=0.1)
    assert out.shape == (B, S, 2, 16)
    out.sum().backward()
    assert k.grad is not None
    assert not k.grad.any()


def arguments(**other: Any) -> dict[str, Any]:
    """Right arguments but for those given."""
    q, k, v = (torch.zeros(2, n, h, 16) for n, h in ((3, 4), (5, 2), (5, 2)))
    return {"q": q, "k": k, "v": v, "scale": 0.1} | other


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"q": torch.zeros(2, 3, 4, 16).double()}, "q is float64, expected bfloat16 or float16 or float32"),
        ({"k": torch.zeros(2, 5, 2, 16).half()}, "k is float16, expected float32"),
        ({"k": torch.zeros(2, 5, 2, 8)}, r"k has shape \(2, 5, 2, 8\), expected \(2, any, any, 16\)"),
        ({"v": torch.zeros(2, 4, 2, 16)}, r"v has shape \(2, 4, 2, 16\), expected \(2, 5, 2, any\)"),
        ({"q": torch.zeros(3, 4, 16)}, r"q has shape \(3, 4, 16\)"),
        ({"q": torch.zeros(2, 3, 3, 16)}, "q has 3 heads and k 2"),
        ({"q": torch.zeros(2, 6, 4, 16)}, "q has 6 positions and k 5"),
        ({"k": torch.zeros(2, 0, 2, 16), "v": torch.zeros(2, 0, 2, 16)}, "a query needs at least one key"),
        ({"v": torch.zeros(2, 5, 2, 300)}, "expected at most 256"),
        ({"scale": -1.0}, "scale is -1.0, expected a positive number"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"window": 0}, "window is 0, expected at least 1 token"),
        ({"lengths": torch.ones(2)}, "lengths is float32, expected int32 or int64"),
        ({"lengths": torch.ones(3, dtype=torch.int32)}, r"lengths has shape \(3,\), expected \(2\)"),
        ({"lengths": torch.ones(2, dtype=torch.int32, device="meta")}, "tensors lie on cpu and meta"),
    ],
)
def test_bad_input_is_one_clear_error(other: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"attention: .*{message}"):
        flash_attention.attention(**arguments(**other))


def test_mla_prefill_takes_its_own_widths_and_squares_only() -> None:
    q, k, v = (torch.zeros(1, 4, 2, d) for d in (192, 192, 128))
    with pytest.raises(ValueError, match=r"mla_prefill: v has shape \(1, 4, 2, 192\), expected \(1, 4, 2, 128\)"):
        mla_prefill.mla_prefill(q, k, q, scale=0.1, config=SMALL_CONFIG)
    with pytest.raises(ValueError, match=r"mla_prefill: q has shape \(1, 3, 2, 192\)|k has shape"):
        mla_prefill.mla_prefill(q[:, :3], k, v, scale=0.1, config=SMALL_CONFIG)
    out, lse = mla_prefill.mla_prefill(q, k, v, scale=0.1, config=SMALL_CONFIG)
    with pytest.raises(ValueError, match=r"mla_prefill_backward: lse has shape \(1, 4, 2\), expected \(1, 2, 4\)"):
        mla_prefill_backward.mla_prefill_backward(q, k, v, out, lse.mT.contiguous(), out, scale=0.1)


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("shape", mla_prefill.TABLE_SHAPES["mla_prefill"] + [{"B": 2, "H": 16, "S": 4097}], ids=str)
@pytest.mark.parametrize("op", TRIALS)
def test_on_a_gpu_at_full_size(op: str, shape: dict[str, int]) -> None:
    trial = TRIALS[op]
    module = mla_prefill if op == "mla_prefill" else mla_prefill_backward
    config = module.CANDIDATES[op][0]
    assert check(trial, seeded(trial, shape, "cuda"), lambda **i: trial.ours(**i, config=config)) <= 1


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize(("H", "J", "d"), [(32, 8, 128), (28, 4, 128), (8, 8, 64), (4, 4, 24), (4, 2, 256)])
@pytest.mark.parametrize("window", [None, 300])
def test_on_a_gpu_with_the_baselines_widths(H: int, J: int, d: int, window: int | None) -> None:
    case = {"S": 700, "L": 1031, "H": H, "J": J, "d": d, "v": d, "window": window, "lengths": [1031, 777]}
    tensors, given = made(case, torch.bfloat16)
    tensors, given["lengths"] = [x.cuda() for x in tensors], given["lengths"].cuda()
    (out, grads), (want, wanted) = ours(tensors, given), exact(tensors, given)
    assert off(out, want) < 2**-7
    assert max(off(a, b) for a, b in zip(grads, wanted, strict=True)) < 2**-6
    assert same_bits((out, grads), ours(tensors, given))
