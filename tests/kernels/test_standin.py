"""A GPU that is not there: tensors on it, and Triton's keys, which must be those of a launch on tensors that are there.

Compiling needs a process that does not interpret: the keys are taken in a child.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from v3bench.kernels import launch, standin, tables

ROOT = Path(__file__).resolve().parents[2]
OLDEST = "3.6.0"
FOLDER = ROOT / "build" / f"triton-{OLDEST}"  # made by `make test-slow`
SHAPES = {
    "quantize_tiles": {"M": 17, "K": 512},
    "fp8_gemm": {"M": 64, "N": 2112, "K": 512},
    "paged_gqa": {"B": 1, "H": 32, "J": 8, "L": 4096},
    "route": {"T": 1, "E": 256, "K": 8},
}
# The other ways to a key. One has a driver that knows its target only and real tensors, as CUDA's aligned to 16 bytes;
# nothing of standin.py is in it. One is compilation ahead of time: it must find all in the cache and add nothing.
CODE = """
import json, os, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor
from v3bench.kernels import aot, catalog, standin, tables
from v3bench.suite.trials import registry

class Driver:
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
    get_current_device = lambda self: 1  # another one, so that nothing is found in the JIT's own memory
    get_current_stream = lambda self, device: 0

def real(x):
    if isinstance(x, TensorDescriptor):
        return TensorDescriptor(real(x.base), x.shape, x.strides, x.block_shape)
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) if isinstance(x, torch.Tensor) else x

def folders():
    return sorted(os.listdir(os.environ["TRITON_CACHE_DIR"]))

found = {"triton": triton.__version__}
for op, shape in json.loads(sys.argv[1]).items():
    trial = registry.load(op)
    with standin.present(), standin.compiling(lambda key: True) as asked:
        trial.ours(**trial.inputs(shape, "cuda"))
    before = folders()
    made = catalog.module(op).example(op, shape, tables.choose(op, torch.device("meta"), **shape))
    driver.set_active(Driver())
    there = []
    for one in made:
        args = {name: real(x) for name, x in one.args.items()}
        there.append(one.kernel.run(grid=one.grid, warmup=True, **args, **one.options).hash)
        aot.compile(one)
    found[op] = {
        "standin": [one.hash for one in asked], "real": there, "hits": [one.hit for one in asked],
        "added": [name for name in folders() if name not in before],
    }
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", ["", OLDEST])
def test_keys_are_those_of_a_launch_on_real_tensors_and_of_compilation_ahead_of_time(
    tmp_path: Path, version: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if version:
        if not (FOLDER / "triton").is_dir():
            pytest.skip(f"needs Triton {OLDEST} in {FOLDER.relative_to(ROOT)}: make test-slow")
        environment["PYTHONPATH"] = str(FOLDER)
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE, json.dumps(SHAPES)],
        capture_output=True, text=True, timeout=600, env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert version in ("", answer.pop("triton"))
    for op, found in answer.items():
        assert found["standin"], op
        assert found["standin"] == found["real"], op
        assert found["hits"] == [False] * len(found["hits"]), op
        assert found["added"] == [], op


def test_tensors_lie_there_without_memory() -> None:
    with standin.present("NVIDIA H200", sms=78):
        x = torch.randn(2**20, 2**20, 8, device="cuda", dtype=torch.bfloat16)
        parts = x.view(torch.uint8), x.new_empty(3), torch.empty_like(x), x.topk(2).values, *x.split(2**19)
        for made in (x, x[1:], *parts):
            assert made.is_cuda
            assert not made.is_meta
            assert made.device == torch.device("cuda", 0)
        assert torch.empty(3, device=x.device).is_cuda
        assert torch.zeros(3).device.type == "cpu"
        assert [x.data_ptr() % 16, x[0, 0, 3:].data_ptr(), x[0, 0, 3:].clone().data_ptr()] == [0, 6, 0]
        assert launch.sms(x.device) == 78
        assert tables.name_of(x.device) == "NVIDIA H200"
    assert torch.empty(3, device="meta").is_meta
