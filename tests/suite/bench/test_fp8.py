"""The benchmarks of the FP8 error budget: what they record, case by case."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from v3bench.suite.bench import bench_fp8
from v3bench.suite.budget import accumulation
from v3bench.suite.budget.accumulation import modelled
from v3bench.suite.budget.gemm import BOTH, NEVER, PROMOTED, SOURCES
from v3bench.suite.laws.numerics import accumulation_error
from v3bench.suite.ledger import cases, claims, verdict
from v3bench.suite.ledger.data import table
from v3bench.suite.meter.measure import ONCE
from v3bench.suite.meter.recorder import Recorder


@pytest.fixture
def bench():
    """Runs one series of a case without pytest: its records."""

    def run(name, series, function, *more, **smaller):
        case = cases.load()[name]
        case = cases.Case(**{**vars(case), "shape": {**case.shape, **smaller}})
        session = SimpleNamespace(plan=SimpleNamespace(device="cpu", launch="a"))
        recorder = Recorder(session, case, series, None, ONCE)
        getattr(bench_fp8, function)(recorder, case, series, *more)
        assert {m.metric for m in recorder.pending} <= set(table("metrics"))
        return recorder.pending

    return run


def test_a_quantiser_s_records(bench):
    found = bench("quantiser-gaussian", "quantiser.e4m3-1x128/torch", "test_quantiser", "cpu", columns=256, samples=2)
    by_metric = {m.metric: m for m in found}
    assert list(by_metric) == ["relative_error", "signal_to_noise", "cosine", "flushed", "clipped"]
    assert {(len(m.samples), m.scale, m.basis) for m in found} == {(2, "proxy", "measured")}
    assert by_metric["relative_error"].convention == bench_fp8.ROOT_MEAN_SQUARE
    assert all(0.02 < sample < 0.03 for sample in by_metric["relative_error"].samples)
    assert by_metric["relative_error"].samples[0] != by_metric["relative_error"].samples[1]


def test_a_product_s_records(bench):
    found = bench("gemm-error-512", "gemm.fp8/torch", "test_gemm_error", "cpu", K=256, rows=4)
    relative = [m.convention for m in found if m.metric == "relative_error"]
    assert relative == [f"root mean square; {source}" for source in SOURCES]
    assert {m.metric for m in found} == {"relative_error", "worst_row_error", "cosine"}
    whole = [m for m in found if m.metric == "relative_error" and "alone" not in m.convention]
    assert all(0.02 < m.samples[0] < 0.05 for m in whole)
    assert {m.convention for m in found if m.metric == "cosine"} == {BOTH, PROMOTED, NEVER}
    assert not any(
        "bits" in m.convention for m in bench("gemm-error-512", "gemm.bf16/torch", "test_gemm_error", "cpu", K=32)
    )


@pytest.fixture
def hopper(monkeypatch):
    """The model in the place of the GPU's kernels."""
    monkeypatch.setitem(accumulation.GEMMS, "unpromoted", modelled(13))
    monkeypatch.setitem(accumulation.GEMMS, "promoted", modelled(13, promote=128))


@pytest.mark.parametrize("name, promote", [("unpromoted", 0), ("promoted", 128)])
def test_accumulation_s_records_are_what_the_claim_picks(bench, hopper, name, promote):
    found = bench(
        "accumulation-uniform", f"fp8-tensor-core/{name}", "test_accumulation", "cpu", None, lengths=[256, 4096]
    )
    assert [m.samples[0] for m in found] == [accumulation_error(13, k, promote, "uniform") for k in (256, 4096)]
    judged = verdict.judge((claims.read("fp8-accumulation-error"),), found)[0]
    measured = [row.value for row in judged.evidence if row.basis == "measured"]
    assert measured == ([] if promote else [pytest.approx(100 * found[1].samples[0])])
    assert judged.basis == ("modelled" if promote else "measured")


def test_the_probe_decides_the_claims_about_the_tensor_core(bench, hopper):
    found = bench("tensor-core-bits", "fp8-tensor-core/unpromoted", "test_tensor_core", "cpu", None)
    assert [(m.metric, m.samples, m.scale) for m in found] == [
        ("fraction_bits", (13,), "full"), ("aligned_products", (32,), "full"),
    ]  # fmt: skip
    assert found[0].convention == "the rest cut off"
    judged = verdict.judge([claims.read(f"fp8-{name}") for name in ("fraction-bits", "aligned-products")], found)
    assert [one.verdict for one in judged] == ["reproduced", "reproduced"]
    assert verdict.judge([claims.read("fp8-fraction-bits")], ())[0].outcome == "untested"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_hopper_gpu_loses_more_without_promotion():
    """What comes out is a measurement; that promotion helps is what the kernels are for."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs a CUDA device of compute capability 9.0, Hopper")
    never, often = (
        accumulation.accumulation_error(accumulation.GEMMS[name], 4096, "uniform", "cuda")
        for name in ("unpromoted", "promoted")
    )
    assert often < never / 5
