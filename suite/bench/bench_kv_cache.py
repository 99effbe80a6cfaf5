"""Bytes of KV cache per token: of the cache object, and of the memory that real caches take on the device."""

from functools import partial

import pytest
import torch
from v3bench.suite import models
from v3bench.suite.meter import allocation


def caches(case, series):
    """Cache objects of the case's two lengths, bf16, on the meta device; and the tokens between them."""
    model = models.build(models.load(series.split("/")[0])[1], device="meta", dtype=torch.bfloat16)
    short, long = case.shape["lengths"]
    batch = case.shape["batch"]
    return model.new_cache(batch, short), model.new_cache(batch, long), batch * (long - short)


def test_counted(record, case, series):
    """The bytes of the cache object, difference of two lengths."""
    short, long, tokens = caches(case, series)
    record([(long.nbytes - short.nbytes) / tokens], convention="bf16", precision="bfloat16")


def test_allocated(record, case, series, device):
    """The allocator's difference between two real caches with every page touched."""
    short, long, tokens = caches(case, series)
    if why := allocation.too_large(long.nbytes, device):
        pytest.skip(why)
    taken = [
        allocation.allocated(partial(allocation.materialised, cache.layers, device), device) for cache in (short, long)
    ]
    record([(taken[1] - taken[0]) / tokens], convention="bf16", precision="bfloat16")
