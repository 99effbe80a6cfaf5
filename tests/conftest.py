"""What every test starts from."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = (
        "1"  # read when a kernel's file is imported: without a GPU, kernels are interpreted
    )

torch.set_num_threads(1)  # the tensors of tests are too small for threads, which only wait for each other


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def not_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest that a test starts is no worker of pytest-xdist, in which pytest-benchmark would time nothing."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
