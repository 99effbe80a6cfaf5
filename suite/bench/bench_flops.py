"""FLOPs per token of the real modules, counted operator by operator on the meta device; no formula enters."""

import torch
from v3bench.suite import models
from v3bench.suite.meter import counted
from v3bench.suite.meter.count import counting


def test_training(record, case, series):
    """Forward and backward over one sequence: causal pairs, and every attention matrix taken whole."""
    model = models.build(models.load(series.split("/")[0])[1], device="meta", dtype=torch.bfloat16)
    tokens = case.shape["seq_len"]
    with counting(model, counted.multiplied_in) as count:
        model(torch.zeros(1, tokens, dtype=torch.int64, device="meta")).sum().backward()
    record([count.total / tokens], convention="train_causal", precision="bfloat16")
    record([count.total_full / tokens], convention="train_full", precision="bfloat16")


def test_inference(record, case, series):
    """Prefill of one sequence, and decoding one token over a cache as long."""
    model = models.build(models.load(series.split("/")[0])[1], device="meta", dtype=torch.bfloat16)
    tokens = case.shape["seq_len"]
    record([counted.prefill(model, tokens).total / tokens], convention="prefill_causal", precision="bfloat16")
    record([counted.decode(model, tokens).total], convention="decode", precision="bfloat16")
