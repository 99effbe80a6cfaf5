"""The benchmark of a checkpoint's weights: what it records of one in BF16 and of one in FP8."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from v3bench.suite import export
from v3bench.suite.bench import bench_fp8
from v3bench.suite.budget import weights
from v3bench.suite.ledger import cases
from v3bench.suite.ledger.data import table
from v3bench.suite.meter.measure import ONCE
from v3bench.suite.meter.recorder import Recorder


def records(checkpoint):
    """metric -> convention -> value."""
    case = cases.load()["weights-given"]
    session = SimpleNamespace(plan=SimpleNamespace(device="cpu", launch="a"))
    recorder = Recorder(session, case, "checkpoint/torch", None, ONCE)
    bench_fp8.test_weights(recorder, case, "checkpoint/torch", checkpoint)
    found: dict[str, dict[str, float]] = {}
    for m in recorder.pending:
        assert (m.basis, m.scale, m.precision, m.subject) == ("measured", "proxy", "fp8", "checkpoint")
        kind, _, of = m.convention.partition("; ")
        assert of == Path(checkpoint).name
        found.setdefault(m.metric, {})[kind] = m.samples[0]
    assert found.keys() <= table("metrics").keys()
    return found


def test_without_a_checkpoint_it_is_skipped():
    with pytest.raises(pytest.skip.Exception, match="no checkpoint given"):
        records(None)


def test_a_bf16_checkpoint_has_an_error_and_an_fp8_one_a_bound(folder, tmp_path):
    found = records(str(folder))
    assert list(found) == ["relative_error", "cosine", "flushed"]
    assert found["relative_error"]["all matrices"] == weights.measure(folder).as_json()["total"]["relative_error"]
    assert {"self_attn.q_proj", "mlp.down_proj"} < found["relative_error"].keys()
    export.write(folder, tmp_path / "fp8")
    bound = records(str(tmp_path / "fp8"))
    assert list(bound) == ["rounding_bound", "range_used"]
    for name, error in found["relative_error"].items():
        assert error < bound["rounding_bound"][name]


def test_weights_that_are_not_finite_fail_by_name(folder):
    path, name = folder / "model.safetensors", "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(path)
    tensors[name][0, 0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(AssertionError, match=f"{name} holds values that are not finite"):
        records(str(folder))
