"""The ceilings: right results, random data, counted work, and operands as torch's scaled_mm asks for them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from v3bench.kernels import checks
from v3bench.suite.ledger import cases
from v3bench.suite.meter import ceilings, graph
from v3bench.suite.meter.ceilings import CEILINGS, check

OWN = {name: case for name, case in cases.load().items() if case.bench == "ceilings"}
FP8 = [kind for kind in CEILINGS if kind.startswith("fp8")]


def test_each_ceiling_has_a_case_for_a_gpu():
    assert {case.shape["kind"] for case in OWN.values()} == set(CEILINGS)
    for name, case in OWN.items():
        assert name == f"ceiling-{case.shape['kind']}"
        assert (case.device, case.subjects) == ("cuda", ("kernels.ceiling",))
        assert case.profiles == ("quick", "standard", "full")


@pytest.mark.parametrize("kind", ["copy", "read", "bf16"])
def test_a_ceiling_computes_what_it_says_on_data_that_are_no_zeros(kind):
    torch.manual_seed(0)
    operands = CEILINGS[kind].operands(256, "cpu")
    check(operands)
    assert float(operands.want().double().norm()) > 1


def test_a_wrong_result_is_refused():
    operands = CEILINGS["bf16"].operands(256, "cpu")
    wrong = replace(operands, got=lambda: operands.want() * 1.03)
    with pytest.raises(AssertionError, match=r"off by 3\.0e-02 of its norm"):
        check(wrong)
    with pytest.raises(AssertionError, match="off by nan"):
        check(replace(operands, got=lambda: operands.want() * float("nan")))


@pytest.mark.parametrize("kind", FP8)
def test_fp8_operands_are_laid_out_as_torch_demands_and_undo_their_scales(kind, monkeypatch):
    """torch's own checks of shape and stride run on meta tensors; the values are checked by a product in float64."""
    given = {}

    def scaled_mm(a, b, sa, kind_a, sb, kind_b, use_fast_accum=False):
        given.update(a=a, b=b, sa=sa, sb=sb, kinds=(kind_a, kind_b), fast=use_fast_accum)
        meta = [x.to("meta") for x in (a, b, sa, sb)]
        assert [x.stride() for x in meta] == [x.stride() for x in (a, b, sa, sb)]
        a, b, sa, sb = meta
        return real(a, b, sa, kind_a, sb, kind_b, use_fast_accum=use_fast_accum)

    real = torch.nn.functional.scaled_mm
    monkeypatch.setattr(torch.nn.functional, "scaled_mm", scaled_mm)
    torch.manual_seed(0)
    source = torch.randn(768, 768), torch.randn(768, 768)
    given_out = iter(source)
    monkeypatch.setattr(torch, "randn", lambda *shape, device: next(given_out))
    operands = CEILINGS[kind].operands(768, "cpu")
    out = operands.launch()
    assert (out.shape, out.dtype) == ((768, 768), torch.bfloat16)
    assert given["fast"] is (kind == "fp8-rowwise-fast")
    exact = (source[0][: ceilings.ROWS].double() @ source[1].double().t()).norm()
    error = (operands.want() - source[0][: ceilings.ROWS].double() @ source[1].double().t()).norm() / exact
    assert error < 0.05  # e4m3 on both sides of Gaussian data: 3.6 %; the transpose of a scale is off by order 1
    if kind == "fp8-block":
        assert given["sa"].stride() == (1, 768)
        assert (tuple(given["sb"].shape), given["sb"].stride()) == ((8, 6), (1, 8))  # six columns padded to eight


@pytest.mark.parametrize(
    "kind, n, flops, nbytes",
    [
        ("copy", 1000, 0, 4000),
        ("read", 1000, 0, 4000),
        ("bf16", 8192, 2 * 8192**3, 3 * 2 * 8192**2),
        ("fp8-rowwise", 8192, 2 * 8192**3, 4 * 8192**2 + 8 * 8192),
        ("fp8-block", 8192, 2 * 8192**3, 4 * 8192**2 + 4 * (8192 * 64 + 64 * 64)),
    ],
)
def test_work_is_counted(kind, n, flops, nbytes):
    case = replace(OWN["ceiling-copy"], shape={"kind": kind, "n": n})
    work = ceilings.work(case)
    assert (work.flops, work.nbytes) == (flops, nbytes)


def test_the_benchmark_checks_then_times_over_enough_sets(monkeypatch):
    monkeypatch.setattr(graph, "l2_bytes", lambda: 10_000)
    done = []

    def timed_kernels(build, precision):
        done.append(precision)
        done.append(build())

    record = SimpleNamespace(gate=lambda found: (found(), done.append("gate")), timed_kernels=timed_kernels)
    case = replace(OWN["ceiling-copy"], shape={"kind": "copy", "n": 1000})
    ceilings.ceilings(record, case, "cpu")
    assert done[:2] == ["bfloat16", "gate"]
    (contender,) = done[2].values()
    assert list(done[2]) == ["kernels.ceiling/torch"]
    assert len(contender.calls) == 8  # 4000 bytes each, above three times 10,000


def test_an_older_gpu_has_no_ceiling_in_fp8_and_says_why(monkeypatch):
    monkeypatch.setattr(checks, "missing", lambda needs, device: "needs compute capability 9.0")
    monkeypatch.setattr(graph, "l2_bytes", lambda: 10_000)
    built = {}
    record = SimpleNamespace(
        gate=lambda found: found(), timed_kernels=lambda build, precision: built.update({precision: build()})
    )
    for kind in ("fp8-block", "bf16"):
        ceilings.ceilings(record, replace(OWN[f"ceiling-{kind}"], shape={"kind": kind, "n": 128}), "cpu")
    assert built["fp8"]["kernels.ceiling/torch"].missing == "needs compute capability 9.0"
    assert built["bfloat16"]["kernels.ceiling/torch"].calls


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", CEILINGS)
def test_on_a_gpu_every_ceiling_is_right(kind):
    if kind.startswith("fp8") and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a CUDA device of compute capability 9.0")
    check(CEILINGS[kind].operands(1024, "cuda"))
