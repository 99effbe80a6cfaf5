"""Rivals of causal attention that need care to be timed."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from v3bench.suite.trials import mla_prefill


def test_cudnns_forward_runs_once_on_each_stream_that_asks_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's CPU attention in cuDNN's place, and any object as a stream."""
    current, forwards = ["default"], []

    def backend(kind: object) -> nullcontext[None]:
        forwards.append(current[0])
        return nullcontext()

    monkeypatch.setattr(mla_prefill, "on_cuda", lambda inputs: tuple(inputs[x].transpose(1, 2) for x in "qkv"))
    monkeypatch.setattr(mla_prefill, "sdpa_kernel", backend)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[0])
    inputs = mla_prefill.with_gradient({"B": 1, "H": 2, "S": 16}, "cpu")
    want = mla_prefill.gradient_oracle(**inputs)
    call = mla_prefill.cudnn_gradients(inputs)
    for stream in ("default", "default", "capture", "capture"):
        current[0] = stream
        assert mla_prefill.gradients_close(call(), want, inputs) <= 1
    assert forwards == ["default", "capture"]
