"""What a plan runs on: a pair differs in its products, whatever the device."""

from __future__ import annotations

from dataclasses import fields

import pytest
from v3bench.kernels.ops import TORCH, Ops
from v3bench.suite.train.plan import Plan

PRODUCTS = {"name", "linear", "norm_linear", "ffn", "experts"}


def ops(recipe: str, device: str) -> Ops:
    return Plan(model="deepseek-v3-small", recipe=recipe, steps=1, batch=1, length=8, device=device).ops()


@pytest.mark.parametrize("recipe", ["fp8", "control-2-bit"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_pair_differs_in_its_products_alone(recipe, device):
    if device == "cuda":
        pytest.importorskip("triton")
    base, other = ops("bf16", device), ops(recipe, device)
    differ = {f.name for f in fields(Ops) if name(getattr(base, f.name)) != name(getattr(other, f.name))}
    assert "linear" in differ
    assert differ <= PRODUCTS


def name(value: object) -> object:
    """What a function is: the arithmetic that it is done in left out, which is bfloat16's own on a GPU."""
    while hasattr(value, "func"):
        if "inner" in value.keywords:
            return name(value.keywords["inner"])
        return (name(value.func), *sorted((key, str(kept)) for key, kept in value.keywords.items() if key != "compute"))
    return value


def test_fp32_is_torch_s_own_on_every_device():
    assert ops("fp32", "cpu") is ops("fp32", "cuda") is TORCH
