"""What every test starts from."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)  # the tensors of tests are too small for threads, which only wait for each other


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in whatever order tests run."""
    torch.manual_seed(0)
