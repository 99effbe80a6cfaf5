"""The counter: what it refuses, and that its totals are those of the work itself, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from v3bench.kernels.attention import attention
from v3bench.kernels.grouped_gemm import grouped_gemm
from v3bench.kernels.mla_decode import mla_decode
from v3bench.kernels.operation import operation
from v3bench.suite.meter.count import CountError, counting


@torch.library.custom_op("v3bench_test::hidden_product", mutates_args=())
def hidden_product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w


@hidden_product.register_fake
def _(x, w):
    return x.new_empty(x.shape[0], w.shape[1])


def unknown_operation(x):
    return x @ x


unknown_operation.__module__ = "v3bench.kernels.somewhere"
unknown_operation = operation(unknown_operation)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_product_hidden_in_a_custom_operation_stops_the_count(device):
    x = torch.empty(8, 8, device=device)
    with pytest.raises(CountError, match=r"hidden_product.*float32\(8, 8\)"), counting():
        hidden_product(x, x)


def test_an_aten_operation_in_neither_table_stops_the_count():
    with pytest.raises(CountError, match="convolution"), counting():
        F.conv1d(torch.ones(1, 2, 9), torch.ones(4, 2, 3))


def test_a_project_operation_without_a_formula_stops_the_count():
    with pytest.raises(CountError, match="unknown_operation is an operation without"), counting():
        unknown_operation(torch.ones(4, 4))


def test_a_mask_without_values_stops_the_count():
    q = torch.empty(1, 2, 4, 8, device="meta")
    with pytest.raises(CountError, match="mask on the meta device"), counting():
        F.scaled_dot_product_attention(q, q, q, attn_mask=torch.ones(4, 4, dtype=torch.bool, device="meta"))


def test_nothing_is_counted_outside():
    x = torch.ones(4, 4)
    with counting() as count:
        x @ x
    x @ x
    assert count.total == 2 * 4**3
    assert count.by_operation == {"mm": 2 * 4**3}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_products_in_every_spelling(device):
    x, w, b = (torch.ones(shape, device=device) for shape in ((3, 4), (4, 5), (5,)))
    stack = torch.ones(2, 3, 4, device=device)
    for work, flops in (
        (lambda: x @ w, 2 * 3 * 4 * 5),
        (lambda: F.linear(x, w.T, b), 2 * 3 * 4 * 5),
        (lambda: F.linear(stack, w.T, b), 2 * 2 * 3 * 4 * 5),
        (lambda: torch.einsum("tk,kn->tn", x, w), 2 * 3 * 4 * 5),
        (lambda: stack @ stack.transpose(1, 2), 2 * 2 * 3 * 4 * 3),
        (lambda: torch.baddbmm(torch.zeros(2, 3, 3, device=device), stack, stack.transpose(1, 2)), 2 * 2 * 3 * 4 * 3),
        (lambda: x @ w[:, 0], 2 * 3 * 4),
        (lambda: torch.dot(b, b), 2 * 5),
        (lambda: torch.mm(x, w, out=torch.empty(3, 5, device=device)), 2 * 3 * 4 * 5),
    ):
        with counting() as count:
            work()
        assert count.total == flops


def test_products_are_counted_in_the_backward_pass():
    x, w = torch.ones(3, 4, requires_grad=True), torch.ones(4, 5, requires_grad=True)
    with counting() as count:
        (x @ w).sum().backward()
    assert count.total == 3 * 2 * 3 * 4 * 5


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_is_counted_by_its_pairs_and_the_rest_is_kept_apart(device):
    q, k, v = (torch.randn(2, 5, heads, 8, device=device) for heads in (4, 2, 2))
    for window, seen in ((None, 15), (3, 12), (1, 5)):
        with counting() as count:
            out = attention(q, k, v, scale=1.0, causal=True, window=window)
        assert out.shape == q.shape
        assert count.total == count.by_part["attention"] == 2 * 4 * seen * 2 * (8 + 8)
        assert count.total_full == 2 * 4 * 5 * min(5, window or 5) * 2 * (8 + 8)


def test_backward_of_attention_is_twice_its_forward_and_computes_the_same():
    def leaves():
        torch.manual_seed(0)
        return [torch.randn(1, 6, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    plain, counted = leaves(), leaves()
    attention(*plain, scale=0.3).square().sum().backward()
    with counting() as count:
        attention(*counted, scale=0.3).square().sum().backward()
    forward = 2 * 21 * 2 * (8 + 8)
    assert count.by_operation == {"attention": forward, "attention_backward": 2 * forward}
    for mine, theirs in zip(counted, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_grouped_formula_is_what_its_loop_does():
    """Its products are counted by formula; those seen below it, forward and backward, are as many."""
    x, w = torch.randn(7, 4, requires_grad=True), torch.randn(3, 5, 4, requires_grad=True)
    offsets = torch.tensor([2, 2, 7], dtype=torch.int32)
    with counting() as count:
        grouped_gemm(x, w, offsets).sum().backward()
    assert count.by_operation == {"grouped_gemm": 2 * 7 * 5 * 4, "grouped_gemm_backward": 2 * 2 * 7 * 5 * 4}
    assert count.inside == count.by_operation


def test_the_latent_formula_is_what_its_products_do():
    """One query sees all: the products seen below are as many as the formula says."""
    q, latents = torch.randn(2, 1, 4, 12), torch.randn(2, 9, 12)
    with counting() as count:
        mla_decode(q, latents, value_dim=8, scale=1.0)
    assert count.by_operation == count.inside == {"mla_decode": 2 * 2 * 4 * 9 * (12 + 8)}


def test_arguments_given_by_name_are_counted_too():
    q = torch.empty(1, 2, 4, 8, device="meta")
    k = torch.empty(1, 3, 4, 8, device="meta")
    w, offsets = torch.empty(3, 5, 4, device="meta"), torch.empty(3, dtype=torch.int32, device="meta")
    with counting() as count:
        attention(q, k=k, v=k, scale=1.0)
        grouped_gemm(torch.empty(7, 4, device="meta"), w=w, offsets=offsets)
        grouped_gemm(x=torch.empty(7, 4, device="meta"), w=w, offsets=offsets)
        F.scaled_dot_product_attention(query=q, key=q, value=q)
    assert count.by_operation == {
        "attention": 2 * 4 * 5 * 16,
        "grouped_gemm": 2 * 2 * 7 * 4 * 5,
        "scaled_dot_product_attention": 2 * 2 * 4 * 4 * 16,
    }


def test_inference_mode_is_counted_alike():
    x, w, b = torch.ones(2, 3, 4), torch.ones(5, 4), torch.ones(5)
    with counting() as count, torch.inference_mode():
        F.rms_norm(F.linear(x, w, b), (5,), b)
    assert count.total == 2 * 2 * 3 * 4 * 5


def test_a_frozen_operand_of_a_function_counted_by_its_arguments_stops_the_count():
    x, w = torch.ones(4, 4, requires_grad=True), torch.ones(1, 4, 4)
    with pytest.raises(CountError, match="only some operands"), counting():
        grouped_gemm(x, w, torch.tensor([4], dtype=torch.int32))


def test_rows_of_different_lengths_are_counted_by_their_own():
    q, latents = torch.randn(2, 1, 4, 12), torch.randn(2, 9, 12)
    with counting() as count:
        mla_decode(q, latents, value_dim=8, scale=1.0, lengths=torch.tensor([9, 4]))
    assert count.total == 2 * 4 * (9 + 4) * (12 + 8)
    assert count.total_full == 2 * 4 * (9 + 9) * (12 + 8)


def test_parts_are_told_by_the_weight_through_views_and_casts():
    layer = torch.nn.Linear(6, 4, bias=False)
    x = torch.ones(3, 6)
    for work in (
        lambda: layer(x),
        lambda: x.double() @ layer.weight.double().T,
        lambda: x[:, :3] @ layer.weight[:, :3].T,
    ):
        with counting(layer, lambda name: f"part of {name}") as count, torch.no_grad():
            work()
        assert list(count.by_part) == ["part of weight"]
    with counting(layer) as count, torch.no_grad():
        x @ x.T
    assert list(count.by_part) == ["other"]


def test_what_is_left_out_is_named():
    with counting() as count:
        torch.ones(3, 4).t().softmax(-1).sum()
    assert count.total == 0
    assert count.free["t"] == 0  # a view writes nothing
    assert count.free["_softmax"] == 12
