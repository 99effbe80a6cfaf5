"""The tables of known operations: that they name real ones, and their formulas against brute force."""

import pytest
import torch
from v3bench.kernels.attention import visible
from v3bench.suite.meter import operations
from v3bench.suite.meter.count import counting


def test_every_entry_is_an_operation_of_torch():
    """A name that torch does not have is a typing error, or no longer an operation."""
    names = operations.FREE_NAMES | operations.PRODUCTS.keys()
    assert [name for name in sorted(names) if not hasattr(torch.ops.aten, name)] == []


def test_no_operation_is_both_free_and_a_product():
    assert not operations.FREE_NAMES & operations.PRODUCTS.keys()
    for name in operations.PRODUCTS:
        packet = getattr(torch.ops.aten, name)
        assert not any(operations.is_free(getattr(packet, overload)) for overload in packet.overloads())


def test_operations_of_others_are_never_free():
    lib = torch.library.Library("v3bench_test_free", "DEF")
    lib.define("add(Tensor x) -> Tensor", tags=(torch.Tag.pointwise,))
    assert not operations.is_free(torch.ops.v3bench_test_free.add.default)


@pytest.mark.parametrize("lengths", [None, (9, 5)])
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("S", [1, 3, 5])
def test_pairs_are_those_the_attention_shows(S, causal, window, lengths):
    tensor = None if lengths is None else torch.tensor(lengths)
    mask = visible(S, 9, causal=causal, window=window, lengths=tensor, device=torch.device("cpu")).expand(2, -1, -1)
    q, k, v = torch.ones(2, S, 4, 6), torch.ones(2, 9, 2, 6), torch.ones(2, 9, 2, 3)
    got = operations.attention(q, k, v, scale=1.0, causal=causal, window=window, lengths=tensor)
    assert got.needed == 2 * 4 * (6 + 3) * int(mask.sum())


def test_torchs_attention_with_and_without_a_mask():
    q, k = torch.ones(2, 3, 4, 8), torch.ones(2, 3, 6, 8)
    mask = torch.rand(2, 1, 4, 6) > 0.5
    added = torch.zeros(4, 6).masked_fill(torch.eye(4, 6, dtype=torch.bool), float("-inf"))
    attend = torch.nn.functional.scaled_dot_product_attention
    for options, seen in (
        ({}, 2 * 3 * 4 * 6),
        ({"is_causal": True}, 2 * 3 * (1 + 2 + 3 + 4)),
        ({"attn_mask": mask}, 3 * int(mask.sum())),
        ({"attn_mask": added}, 2 * 3 * (4 * 6 - 4)),
    ):
        with counting() as count:
            attend(q, k, k, **options)
        assert count.total == seen * 2 * (8 + 8)


@pytest.mark.parametrize(
    "left, right, flops",
    [
        ((7, 4), (3, 4, 5), 2 * 7 * 4 * 5),             # rows in groups
        ((4, 7), (7, 5), 2 * 4 * 7 * 5),                # the shared dimension in groups
        ((3, 6, 4), (4, 7), 2 * 6 * 4 * 7),             # columns in groups
        ((3, 6, 4), (3, 4, 5), 2 * 3 * 6 * 4 * 5),      # a plain batch
    ],
)  # fmt: skip
def test_grouped_products_meet_one_group_each(left, right, flops):
    operands = torch.empty(left, device="meta"), torch.empty(right, device="meta")
    assert operations.product("_grouped_mm", operands) == flops
