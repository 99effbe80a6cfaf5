"""Checks name the operation, the argument, and what would be right."""

from __future__ import annotations

import pytest
import torch
from v3bench.kernels import checks

X = torch.zeros(4, 32)


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [
        ([1.0], (None,), "op: x is list, expected a tensor"),
        (X.double(), (4, 32), "op: x is float64, expected float32"),
        (X, (4, 31), r"op: x has shape \(4, 32\), expected \(4, 31\)"),
        (X, (None,), r"op: x has shape \(4, 32\), expected \(any\)"),
        (X.T, (32, 4), r"op: x has strides \(1, 32\); the last dimension must be dense"),
        (X[:, :31], (4, None), None),
        (torch.zeros(4, 31), (4, 31), "op: x has rows that do not start at multiples of 16 bytes"),
        (X.flatten()[1:5], (4,), "op: x has rows that do not start at multiples of 16 bytes"),
        (torch.empty(2**31, 1, device="meta"), (None, None), "a dimension above 2\\^31 - 1"),
        (torch.zeros(0, 31), (None, 31), None),
        (torch.zeros(1, 31), (1, 31), None),  # a single row starts where the tensor does
    ],
    ids=str,
)
def test_one_argument(value: object, shape: tuple[int | None, ...], message: str | None) -> None:
    if message is None:
        checks.tensor("op", "x", value, torch.float32, shape)  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=message):
        checks.tensor("op", "x", value, torch.float32, shape)  # type: ignore[arg-type]


def test_what_need_not_be_aligned_or_must_be_contiguous() -> None:
    checks.tensor("op", "x", torch.zeros(4, 31), torch.float32, (4, 31), aligned=False)
    with pytest.raises(ValueError, match="expected a contiguous tensor"):
        checks.tensor("op", "x", X[:, :16], torch.float32, (4, 16), contiguous=True)
    with pytest.raises(ValueError, match="expected float32 or bfloat16"):
        checks.tensor("op", "x", X.half(), (torch.float32, torch.bfloat16), (4, 32))


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [
        (torch.ones(3, 2), (3, 2), None),
        (torch.ones(2, 3).T, (3, 2), None),
        (torch.ones(2, 3, 2), (2, 3, 2), None),
        (torch.ones(3, 2).half(), (3, 2), "op: s is float16, expected float32"),
        (torch.ones(3, 2), (3, 1), r"op: s has shape \(3, 2\), expected \(3, 1\): a scale per 128 columns"),
        (torch.ones(1, 1).expand(3, 2), (3, 2), None),
        (torch.empty(3, 2**30, device="meta")[:, :2], (3, 2), r"op: s has strides \(1073741824, 1\); it must not span"),
    ],
)  # fmt: skip
def test_scales_may_have_any_strides_within_31_bits(value: torch.Tensor, shape: tuple[int, ...], message: str) -> None:
    if message is None:
        checks.scales("op", "s", value, shape)
        return
    with pytest.raises(ValueError, match=message):
        checks.scales("op", "s", value, shape)


def test_a_result_of_another_dtype_is_refused() -> None:
    checks.result("op", torch.float32, (torch.bfloat16, torch.float32))
    with pytest.raises(ValueError, match="op: out_dtype is float16, expected bfloat16 or float32"):
        checks.result("op", torch.float16, (torch.bfloat16, torch.float32))


def test_one_device() -> None:
    with pytest.raises(ValueError, match="op: tensors lie on cpu and meta; one device is needed"):
        checks.device("op", checks.HOPPER, X, X.to("meta"))
    assert checks.device("op", checks.HOPPER, X.to("meta")).type == "meta"


def test_the_cpu_is_refused_outside_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "interpreted", lambda: False)
    with pytest.raises(ValueError, match="op: tensors lie on the CPU; a CUDA device is needed"):
        checks.device("op", checks.HOPPER, X)


def test_a_gpu_that_is_too_old_is_refused_with_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    capability = (8, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    said = checks.missing(checks.HOPPER, torch.device("cuda"))
    assert said == "needs compute capability 9.0 (warpgroup matrix instructions on FP8); this device has 8.0"
    assert checks.missing(checks.AMPERE, torch.device("cuda")) == ""
    assert checks.missing(checks.AMPERE, torch.device("mps")) == "needs a CUDA device, not mps"
