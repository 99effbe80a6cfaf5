"""Parameters of the real modules, on the meta device, and of a released checkpoint as it is loaded."""

import pytest
import torch
from v3bench.suite import models
from v3bench.suite.bench import checkpoints
from v3bench.suite.meter import counted
from v3bench.suite.meter.scale import granted


def test_parameters(record, case, series):
    """Scalars of every stored tensor, and of those that one token reads."""
    config = models.load(series.split("/")[0])[1]
    parts, mtp = counted.stored(models.build(config, device="meta"))
    total = sum(parts.values())
    activated = total - counted.unchosen(config, parts["routed_experts"])
    looked_up = 0 if config.tie_word_embeddings else parts["embedding"]
    record([total], convention="total")
    record([activated], convention="activated")
    record([activated - looked_up], convention="activated_without_input_embedding")
    if mtp:
        record([sum(mtp.values())], convention="mtp")


def test_checkpoint(record, case, series, checkpoint, device):
    """A checkpoint's scalars, once the loaded model holds the values of the files: their sum and sum of squares."""
    if checkpoint is None:
        pytest.skip("no checkpoint given: --checkpoint DIR")
    config = models.load(checkpoint)[1]
    model = checkpoints.load(checkpoint, dtype=torch.float32, device=device)
    checkpoints.compare(checkpoint, model)
    parts, mtp = counted.stored(model)
    record([sum(parts.values())], convention="total, as loaded", scale=granted(config))
    if mtp:
        record([sum(mtp.values())], convention="mtp, as loaded", scale=granted(config))
