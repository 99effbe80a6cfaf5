"""The benchmarks of the FP8 error budget that need a trained model: what they record."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from v3bench.suite.bench import bench_fp8
from v3bench.suite.ledger import cases
from v3bench.suite.ledger.data import table
from v3bench.suite.meter.measure import ONCE
from v3bench.suite.meter.recorder import Recorder

LITTLE = {"steps": 2, "batch": 1, "length": 32, "rows": 2, "tokens": 16}
pytestmark = pytest.mark.filterwarnings("ignore:.*not writable:UserWarning")


def run(name: str, series: str, function: str):
    """Records of one series of a case, with little training."""
    case = cases.load()[name]
    case = cases.Case(**{**vars(case), "shape": {**case.shape, **LITTLE}})
    recorder = Recorder(SimpleNamespace(plan=SimpleNamespace(device="cpu", launch="a")), case, series, None, ONCE)
    getattr(bench_fp8, function)(recorder, case, series, "cpu")
    assert {m.metric for m in recorder.pending} <= set(table("metrics"))
    assert {(m.scale, m.basis) for m in recorder.pending} == {("proxy", "measured")}
    assert all("trained on 64 tokens of stdlib" in m.convention for m in recorder.pending)
    return recorder.pending


def errors(records) -> dict[str, float]:
    """Relative errors by place, the training left out."""
    return {m.convention.rpartition("; ")[0]: m.samples[0] for m in records if m.metric == "relative_error"}


@pytest.mark.parametrize("name, proxy, blocks", [("layers-v3", "v3-2m", 2), ("layers-dense", "qwen-2m", 2)])
def test_a_model_s_products_and_states(name, proxy, blocks):
    eight, two = (errors(run(name, f"proxy.{proxy}/{impl}", "test_layers")) for impl in ("fp8", "control-2-bit"))
    assert eight.keys() == two.keys()
    assert {f"states; behind layer {i}" for i in range(blocks)} <= eight.keys()
    assert {"layers.1.attn.w_o; forward", "layers.1.attn.w_o; dgrad", "layers.1.attn.w_o; wgrad"} <= eight.keys()
    products = [place for place in eight if not place.startswith("states")]
    assert all(eight[place] < two[place] for place in products)
    sixteen = errors(run(name, f"proxy.{proxy}/bf16", "test_layers"))
    assert all(place.startswith("states") and 1e-4 < value < eight[place] for place, value in sixteen.items())


def test_predictions_move_more_with_fewer_digits():
    found = [
        {m.metric: m.samples[0] for m in run("logits-v3", f"proxy.v3-2m/{impl}", "test_logits")}
        for impl in ("fp8", "control-1-bit")
    ]
    assert 0 < found[0]["kl_divergence"] < found[1]["kl_divergence"]
    assert found[0]["perplexity"] == found[1]["perplexity"] > 1
    assert 0 <= found[0]["top1_flips"] <= 1


def test_a_quantiser_has_a_sample_for_each_product():
    records = run("recorded-v3", "quantiser.e4m3-1x128/torch", "test_recorded")
    assert [m.metric for m in records] == ["relative_error", "flushed"]
    assert len(records[0].samples) > 8
    assert all(0 < sample < 2**-4 for sample in records[0].samples)
