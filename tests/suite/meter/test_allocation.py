"""Bytes by the allocator: exact for what is held, refused when no memory stands behind."""

from __future__ import annotations

import pytest
import torch
from v3bench.suite.meter import allocation

SHAPES = [torch.empty(1, 1000, 576, dtype=torch.bfloat16, device="meta") for _ in range(8)]
BYTES = 8 * 1000 * 576 * 2


def test_the_allocators_figure_is_the_tensors_bytes():
    taken = allocation.allocated(lambda: allocation.materialised(SHAPES, "cpu"), "cpu")
    assert taken == pytest.approx(BYTES, rel=1e-3)  # rounded up per tensor, to whole lines


def test_the_difference_of_two_lengths_is_exact_per_token():
    shapes = [[torch.empty(1, n, 576, dtype=torch.bfloat16, device="meta")] * 8 for n in (512, 1024)]
    short, long = (allocation.allocated(lambda s=s: allocation.materialised(s, "cpu"), "cpu") for s in shapes)
    assert (long - short) / 512 == 8 * 576 * 2


def test_what_is_freed_again_is_not_counted():
    def make():
        torch.ones(BYTES // 4)  # held by nobody
        return allocation.materialised(SHAPES, "cpu")

    assert allocation.allocated(make, "cpu") == pytest.approx(BYTES, rel=1e-3)


def test_pages_that_are_never_touched_are_refused():
    big = [torch.empty(1, 100_000, 576, dtype=torch.bfloat16, device="meta")]
    with pytest.raises(AssertionError, match="the process grew by"):
        allocation.allocated(lambda: [torch.empty_like(shape, device="cpu") for shape in big], "cpu")


def test_what_does_not_fit_is_said(monkeypatch):
    monkeypatch.setattr(allocation.machine, "memory", lambda: (8 << 30, 2 << 30))
    assert allocation.too_large(1 << 29, "cpu") == ""
    assert "needs 3.2 GB of cpu memory" in allocation.too_large(3 << 30, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_cuda_allocators_figure_is_the_tensors_bytes():
    taken = allocation.allocated(lambda: allocation.materialised(SHAPES, "cuda"), "cuda")
    assert taken == pytest.approx(BYTES, rel=1e-3)
