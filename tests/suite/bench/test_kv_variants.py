"""Kinds of attention at equal training FLOPs: what is equal, what differs, and what their benchmarks record."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from v3bench.suite.bench import bench_kv_variants
from v3bench.suite.laws import flops, kv
from v3bench.suite.ledger import cases
from v3bench.suite.ledger.data import table
from v3bench.suite.meter.measure import ONCE
from v3bench.suite.meter.recorder import Recorder
from v3bench.suite.train import proxies

KINDS = ("mha", "gqa", "mqa", "mla")
LENGTH = cases.load()["kv-variants-quick"].shape["length"]
# A multiple of one in the width of the feed-forward network moves the FLOPs by 0.17 %.
EQUAL = 2e-3


def run(name, kind, function):
    case = cases.load()[name]
    session = SimpleNamespace(plan=SimpleNamespace(device="cpu", launch="a"))
    recorder = Recorder(session, case, f"proxy.{kind}/torch", None, ONCE)
    getattr(bench_kv_variants, function)(recorder, case, recorder.series)
    (record,) = recorder.pending
    assert record.metric in table("metrics")
    assert record.scale == "proxy"
    return record.samples[0]


@pytest.mark.parametrize("kind", KINDS)
def test_flops_are_equal_and_counted_as_the_formula_has_them(kind):
    config, base = proxies.read(kind).config, proxies.read("mha").config
    assert run("kv-variants-flops", kind, "test_flops") == flops.train(config, LENGTH) / LENGTH
    assert flops.train(config, LENGTH) == pytest.approx(flops.train(base, LENGTH), rel=EQUAL)


def test_bytes_of_cache_fall_from_kind_to_kind():
    found = [run("kv-variants-cache", kind, "test_cache") for kind in KINDS]
    assert found == [kv.bytes_per_token(proxies.read(kind).config) for kind in KINDS]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == len(KINDS)


def test_kinds_differ_in_nothing_but_attention_and_what_balances_it():
    shared = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    assert len({tuple(getattr(proxies.read(kind).config, name) for name in shared) for kind in KINDS}) == 1
    assert proxies.read("mla").config.first_k_dense_replace == proxies.read("mla").config.num_hidden_layers


def test_every_case_trains_all_kinds_on_the_length_that_flops_are_equal_at():
    for case in cases.load().values():
        if case.area == "kv_variants" and case.bench == "held_out":
            assert case.subjects == tuple(f"proxy.{kind}" for kind in KINDS)
            assert case.shape["length"] == cases.load()["kv-variants-flops"].shape["length"] == LENGTH
            assert case.shape["seeds"] >= 3
