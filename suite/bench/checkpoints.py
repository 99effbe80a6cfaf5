"""Checkpoints for the benchmarks: the loader of each architecture, and what must survive loading."""

from __future__ import annotations

from pathlib import Path

import torch
from v3bench import baselines, model_ref
from v3bench.baselines.dense import Dense
from v3bench.model_ref.checkpoint_files import FP8, Files
from v3bench.model_ref.config import Config
from v3bench.model_ref.model import Model
from v3bench.suite import models


def load(folder: str | Path, *, dtype: torch.dtype, device: str) -> Model | Dense:
    """The model of a released checkpoint, whichever architecture it has. Raises BadInput."""
    of_deepseek = isinstance(models.load(str(folder))[1], Config)
    loaded = (model_ref if of_deepseek else baselines).load_pretrained(folder, dtype=dtype, device=device)
    assert isinstance(loaded, Model | Dense)
    return loaded


def compare(folder: str | Path, model: Model | Dense) -> None:
    """Raise AssertionError unless the model holds the files' values: none lost, doubled or changed, wherever they lie.

    Sums over all values need no name table, so they cannot repeat its mistakes. Quantised values, and copies of
    shared tensors, differ by design: such files are not compared.
    """
    with Files(folder) as files:
        stored = [tensor for tensor in files if 0 not in tensor.shape]
        own = sum(tensor.numel() for tensor in model.state_dict().values())
        if any(tensor.dtype == FP8 for tensor in stored) or sum(map(numel, stored)) != own:
            return
        there = [moments(files.read(tensor.name)) for tensor in stored]
    here = [moments(tensor) for tensor in model.state_dict().values()]
    for n, name in enumerate(("sum", "sum of squares", "sum of magnitudes")):
        a, b = (sum(values[n] for values in side) for side in (there, here))
        scale = sum(values[2] for values in there)
        assert abs(a - b) <= 1e-9 * scale, f"the {name} of all values is {b!r} after loading, {a!r} in the files"


def numel(stored: object) -> int:
    """Scalars of a tensor by its header."""
    count = 1
    for size in getattr(stored, "shape", ()):
        count *= size
    return count


def moments(tensor: torch.Tensor) -> tuple[float, float, float]:
    """Sum, sum of squares and sum of magnitudes, in double precision."""
    values = tensor.detach().double()
    return values.sum().item(), values.square().sum().item(), values.abs().sum().item()
