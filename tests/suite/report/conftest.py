"""A small run with every kind of record, and the ledger judged on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pandas")

from v3bench.suite.ledger import claims, verdict
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.run_folder import Run

INFO: dict[str, Any] = {
    "schema": 1,
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "lock_sha256": "ab" * 32,
    "packages": {"torch": "2.13.0", "v3bench": "0.1.0"},
    "python": "3.11.7",
    "platform": "Linux x86_64",
    "device": "cpu",
    "cpu": {"model": "Example CPU", "cores": 2, "threads": 2, "memory_bytes": 16_000_000_000},
    "gpus": [],
    "driver": None,
    "segments": [
        {
            "command": "v3bench run",
            "profile": "quick",
            "areas": ["model", "kv_cache"],
            "device": "cpu",
            "launch": "a",
            "start": "2026-01-02T03:04:05Z",
            "end": "2026-01-02T03:08:05Z",
            "exit": 0,
        }
    ],
}


def record(**fields: Any) -> Measurement:
    """A measurement of a small model's prefill, fields changed."""
    given: dict[str, Any] = {
        "area": "model", "subject": "deepseek-v3-small", "impl": "torch", "case": "prefill", "case_version": 1,
        "metric": "time", "basis": "measured", "scale": "proxy", "precision": "float32", "device": "cpu",
        "clock": "host", "launch": "a", "samples": (1.0,),
    }  # fmt: skip
    given |= fields
    if given.get("status", "ok") != "ok":
        given["samples"] = ()
    return Measurement(**given)


def run_of(*measurements: Measurement, **info: Any) -> Run:
    """A run on a CPU with these records, facts of run.json changed."""
    return Run({**INFO, **info}, tuple(measurements), Path("run"))


@pytest.fixture(name="record")
def record_fixture() -> Callable[..., Measurement]:
    return record


@pytest.fixture(name="run_of")
def run_of_fixture() -> Callable[..., Run]:
    return run_of


@pytest.fixture
def run() -> Run:
    """Counted, measured, skipped and failed records of three areas."""
    cache = {"area": "kv_cache", "metric": "kv_bytes_per_token", "scale": "full", "convention": "bf16", "clock": "none"}
    return run_of(
        record(samples=(0.010, 0.012, 0.014, 0.011)),
        record(samples=(0.020, 0.021), impl="transformers"),
        record(**cache, subject="deepseek-v3", basis="counted", case="cache", samples=(70272,)),
        record(**cache, subject="deepseek-v3", case="cache-allocated", samples=(70272.0, 70272.0)),
        record(area="kernels", subject="kernels.mla_decode", case="b128", status="skipped", why="needs a CUDA device"),
        record(area="fp8", case="gemm", status="failed", why="loss was NaN"),
    )


@pytest.fixture
def judged(run: Run) -> tuple[verdict.Judged, ...]:
    return verdict.judge(claims.load(), run.measurements)
