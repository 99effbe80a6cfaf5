"""The least work of each operation, against figures computed by hand and the model's own accounting."""

import inspect

import pytest
from v3bench.kernels.catalog import MODULES
from v3bench.suite.laws import work
from v3bench.suite.trials.registry import FILES


def test_every_operation_has_its_work_its_file_and_its_trial():
    assert work.WORK.keys() == FILES.keys()
    # What a layer runs as one has no kernel, and so no launch table, of its own.
    assert FILES.keys() - MODULES.keys() == {"fp8_linear", "masked_mlp"}
    assert not MODULES.keys() - FILES.keys()


def test_figures_of_the_kernel_sheet():
    assert work.of("quantize_tiles", {"M": 4096, "K": 7168}).nbytes == pytest.approx(88.9e6, rel=2e-3)
    gemm = work.of("fp8_gemm", {"M": 64, "N": 7168, "K": 16384})
    assert gemm.flops == 2 * 64 * 7168 * 16384
    assert gemm.bound(4.3e12, 1400e12) == pytest.approx(27.8e-6, rel=0.01)
    network = work.of("masked_mlp", {"E": 8, "R": 32, "D": 7168, "F": 2048})
    assert network.nbytes / 113e-6 == pytest.approx(3.12e12, rel=0.02)
    prefill = work.of("mla_prefill", {"B": 1, "H": 128, "S": 4096})
    assert prefill.flops == pytest.approx(2 * 128 * 4096**2 * 320 / 2, rel=1e-3)
    backward = work.of("mla_prefill_backward", {"B": 1, "H": 128, "S": 4096})
    assert backward.flops * 320 == prefill.flops * 832
    decode = work.of("paged_mla", {"B": 128, "S": 1, "H": 128, "L": 4096})
    assert decode.flops == 128 * 2 * 128 * 4096 * 1088
    assert decode.flops / 261e-6 == pytest.approx(559e12, rel=0.01)
    narrow = work.of("paged_mla", {"B": 128, "S": 1, "H": 16, "L": 4096})
    assert narrow.nbytes / 154e-6 == pytest.approx(3.91e12, rel=0.02)
    gqa = work.of("paged_gqa", {"B": 64, "H": 32, "J": 8, "L": 4096})
    assert gqa.nbytes / 252e-6 == pytest.approx(4.26e12, rel=0.01)


def test_two_queries_see_their_own_pasts():
    one, two = (work.of("paged_mla", {"B": 1, "S": S, "H": 1, "L": 100}).flops for S in (1, 2))
    assert two == one + one * 99 // 100


def test_fp8_caches_take_fewer_bytes():
    shape = {"B": 1, "S": 1, "H": 16, "L": 1 << 20}
    ratio = work.of("paged_mla", shape).nbytes / work.of("paged_mla_fp8", shape).nbytes
    assert ratio == pytest.approx(1152 / 656, rel=1e-3)


@pytest.mark.parametrize("op", work.WORK)
def test_every_work_grows_with_every_dimension_and_counts_elements(op):
    names = inspect.signature(work.WORK[op]).parameters
    shape = {name: 256 for name, parameter in names.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD}
    base = work.of(op, shape)
    assert base.elements > 0
    assert (base.flops > 0) == bool(base.peak)
    for name in shape.keys() - {"S"}:  # queries are the last of the context: no more than L
        more = work.of(op, {**shape, name: 512})
        assert more.nbytes > base.nbytes
        assert more.bound(1.0, 1.0) > base.bound(1.0, 1.0)
