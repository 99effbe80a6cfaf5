"""The benchmarks of caches and messages in narrow formats: what they record, and which claims read it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from v3bench.suite.bench import bench_fp8
from v3bench.suite.ledger import cases, claims, verdict
from v3bench.suite.ledger.data import table
from v3bench.suite.meter.measure import ONCE
from v3bench.suite.meter.recorder import Recorder

FORMATS = ("logfmt-8", "logfmt-10", "e4m3", "e5m2", "bf16")


@pytest.fixture
def bench():
    """Runs one series of a case without pytest: its records."""

    def run(name, series, *more, **smaller):
        case = cases.load()[name]
        case = cases.Case(**{**vars(case), "shape": {**case.shape, **smaller}})
        session = SimpleNamespace(plan=SimpleNamespace(device="cpu", launch="a"))
        recorder = Recorder(session, case, series, None, ONCE)
        getattr(bench_fp8, f"test_{case.bench}")(recorder, case, series, *more)
        assert {m.metric for m in recorder.pending} <= set(table("metrics"))
        conventions = [(m.metric, m.convention) for m in recorder.pending]
        assert len(set(conventions)) == len(conventions)
        return recorder.pending

    return run


def test_a_drawn_layer_s_bytes_are_a_slice_s_and_only_a_window_loses_tokens(bench):
    found = bench("cache-error-mla", "deepseek-v3/window-64", "cpu", lengths=[32, 128])
    assert {m.scale for m in found if m.metric == "kv_bytes_per_token_and_layer"} == {"slice"}
    assert {m.scale for m in found if m.metric != "kv_bytes_per_token_and_layer"} == {"proxy"}
    lost = {m.convention: m.samples[0] for m in found if m.metric == "attention_lost"}
    assert [lost[f"mean of the heads; {L} tokens; outlier-channels"] > 0.1 for L in (32, 128)] == [False, True]
    found = bench("cache-error-mla", "deepseek-v3/fp8", "cpu", lengths=[32])
    assert {m.metric for m in found} == {"relative_error", "worst_row_error", "cosine", "kv_bytes_per_token_and_layer"}
    assert next(m.samples for m in found if m.metric == "kv_bytes_per_token_and_layer") == (656.0,)


def test_a_proxy_s_layers_are_told_apart(bench):
    found = bench("cache-error-recorded-mla", "proxy.v3-2m/int8-token", "cpu", steps=1, batch=1, rows=1, tokens=32)
    assert {m.scale for m in found} == {"proxy"}
    about = [m.convention for m in found if m.metric == "relative_error"]
    assert ["layer 0" in about[0], "layer 1" in about[1], len(about)] == [True, True, 2]


def test_retrieval_is_told_by_distance_with_chance_beside_it(bench, monkeypatch):
    small = {"keys": 16, "steps": 1, "rows": 1, "questions": 64, "distances": [1, 8]}
    with pytest.raises(AssertionError, match="no format can be judged by it"):
        bench("retrieval-gqa", "llama-tiny/bf16", **small)
    monkeypatch.setattr(bench_fp8, "LEARNT", -1)
    found = bench("retrieval-gqa", "llama-tiny/window-8", **small)
    assert [m.convention.split(";")[0] for m in found if m.metric == "retrieval_accuracy"] == [
        "all pairs", "1 to 7 tokens back", "8 to 16 tokens back",
    ]  # fmt: skip
    assert all("chance 0.25" in m.convention for m in found)


def test_logfmt_s_claims_find_their_rows_and_stay_untested(bench):
    found = [m for name in FORMATS for m in bench("transport-combine", f"{name}/torch", "cpu", rows=4, columns=256)]
    eight, ten = verdict.judge([claims.read("fp8-logfmt-8-better"), claims.read("fp8-logfmt-10-like-bf16")], found)
    assert (len(eight.evidence), len(ten.evidence)) == (6, 3)
    assert {row.scale for row in (*eight.evidence, *ten.evidence)} == {"proxy"}
    # Errors of values say nothing about the accuracy of training.
    assert {eight.outcome, ten.outcome} == {"untested"}
    assert eight.verdict.startswith("not tested (needs models of about 7B")


def test_what_a_proxy_sends_is_recorded(bench):
    found = bench("transport-recorded", "logfmt-8/torch", "cpu", steps=1, batch=1, length=32)
    assert [m.convention.split(";")[1].strip() for m in found if m.metric == "relative_error"] == [
        "dispatch",
        "combine",
    ]
