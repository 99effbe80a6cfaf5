"""Shape rules against torch's own meta kernels: the same shape, type and strides, or no rule."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.suite.meter import shapes

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.complex64, torch.bool)


@st.composite
def tensors(draw, least=0):
    """A meta tensor with dimensions of 1 to 3, perhaps transposed, sliced or broadcast."""
    shape = draw(st.lists(st.integers(1, 3), min_size=least, max_size=4))
    n = len(shape)
    x = torch.empty(shape, dtype=draw(st.sampled_from(DTYPES)), device="meta")
    how = draw(st.sampled_from(("plain", "turned", "sliced", "expanded")))
    if how == "turned":
        return x.permute(draw(st.permutations(range(n))))
    if how == "sliced" and n:
        return torch.empty([*shape[:-1], 2 * shape[-1]], dtype=x.dtype, device="meta")[..., : shape[-1]]
    return x[:1].expand(shape) if how == "expanded" and n else x


def agrees(name, args):
    """Whether there is a rule; if there is, its result is torch's."""
    got = shapes.result(name, args, {})
    if got is None:
        return False
    want = getattr(torch.ops.aten, name)(*args)
    assert (got.shape, got.dtype, got.is_meta) == (want.shape, want.dtype, True)
    assert [s for s, n in zip(got.stride(), got.shape, strict=True) if n > 1] == [
        s for s, n in zip(want.stride(), want.shape, strict=True) if n > 1
    ]
    return True


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(shapes.ANY_KIND | shapes.FLOATING - {"rsqrt"})), tensors(), tensors())
def test_two_operands(name, x, y):
    try:
        getattr(torch.ops.aten, name)(x, y)
    except (RuntimeError, NotImplementedError, TypeError):
        return
    agrees(name, (x, y))
    agrees(name, (x, 2))
    agrees(name, (x, 0.5)) if not (name == "floor_divide" and x.dtype.is_complex) else None


@settings(deadline=None, max_examples=100)
@given(tensors(least=1), st.data())
def test_one_operand_and_several(x, data):
    dim = data.draw(st.integers(-x.dim(), x.dim() - 1))
    agrees("cat", ([x, x], dim))
    agrees("cat", ([x, x.contiguous(), x], dim))
    if x.is_floating_point():
        agrees("rsqrt", (x,))
        agrees("mean", (x, [dim], data.draw(st.booleans())))


def test_the_rules_apply_where_they_are_meant_to():
    x = torch.empty(2, 3, 4, device="meta")
    half = torch.empty(2, 3, 8, device="meta")[..., :4]
    for name, args in (
        ("add", (x, x)), ("mul", (x, x[0, 0])), ("mul", (x, half)), ("div", (x, 3.0)), ("rsqrt", (x,)),
        ("mean", (x, [-1], True)), ("cat", ([x, x], -1)), ("polar", (x, x)), ("floor_divide", (x.long(), 2)),
    ):  # fmt: skip
        assert agrees(name, args), name
    assert not agrees("add", (x.transpose(0, 2), x.transpose(0, 2)))
    assert shapes.result("add", (torch.ones(3), 1), {}) is None


def test_ranges():
    got = shapes.result("arange", (2, 9), {"device": "meta", "dtype": torch.float32})
    assert got is not None
    assert (got.shape, got.dtype, got.is_meta) == ((7,), torch.float32, True)
    assert shapes.result("arange", (9,), {}) is None


@pytest.mark.parametrize("layer", [torch.nn.Embedding, torch.nn.Linear])
def test_nothing_is_drawn_for_meta_parameters_and_all_is_for_others(layer):
    with shapes.WithoutInitialisation():
        assert layer(4, 4, device="meta").weight.is_meta
        torch.manual_seed(0)
        drawn = layer(4, 4).weight
    torch.manual_seed(0)
    assert torch.equal(drawn, layer(4, 4).weight)
