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
