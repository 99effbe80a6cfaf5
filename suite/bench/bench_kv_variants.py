"""Kinds of attention at equal training FLOPs, as small models: held-out loss against bytes of cache per token."""

import torch
from v3bench.suite.meter import counted
from v3bench.suite.meter.count import counting
from v3bench.suite.train import proxies
from v3bench.suite.train.campaign import Campaign
from v3bench.suite.train.proxies import tried


def built(series):
    """The model of a series, bf16, on the meta device."""
    return proxies.read(tried(series)).build("meta", torch.bfloat16)


def test_cache(record, case, series):
    """The bytes of the cache object, difference of two lengths."""
    short, long = (built(series).new_cache(1, length).nbytes for length in case.shape["lengths"])
    tokens = case.shape["lengths"][1] - case.shape["lengths"][0]
    record([(long - short) / tokens], convention="bf16", precision="bfloat16")


def test_flops(record, case, series):
    """Forward and backward over one sequence of the training's length: what the models are made equal in."""
    model, tokens = built(series), case.shape["length"]
    with counting(model, counted.multiplied_in) as count:
        model(torch.zeros(1, tokens, dtype=torch.int64, device="meta")).sum().backward()
    record([count.total / tokens], convention="train_causal", precision="bfloat16")


def test_held_out(record, case, series, device):
    """Loss on held-out text of each seed, after the same steps on the same text."""
    Campaign(record, device).held_out(tried(series))
