"""A model on Triton's kernels counts as one on torch's: no product hides in a kernel."""

import pytest
import torch
from v3bench.kernels import triton_ops
from v3bench.kernels.ops import TORCH
from v3bench.suite import models
from v3bench.suite.meter import counted
from v3bench.suite.meter.count import CountError, counting


def built(preset, ops):
    return models.build(models.load(preset)[1], device="meta", dtype=torch.bfloat16, ops=ops)


@pytest.mark.parametrize("preset", ["deepseek-v3-small", "llama-small"])
@pytest.mark.parametrize("ops", [triton_ops.TRITON, triton_ops.fp8()], ids=lambda ops: ops.name)
def test_prefill_and_decode_count_alike(preset, ops):
    want, got = built(preset, TORCH), built(preset, ops)
    for count in (counted.prefill, counted.decode):
        one, other = count(want, 300), count(got, 300)
        assert other.total == one.total
        assert other.by_part == one.by_part


@pytest.mark.parametrize("preset", ["deepseek-v3-small", "llama-small"])
def test_training_counts_alike(preset):
    totals = []
    for ops in (TORCH, triton_ops.TRITON):
        model = built(preset, ops)
        with counting(model, counted.multiplied_in) as count:
            model(torch.zeros(1, 64, dtype=torch.int64, device="meta")).sum().backward()
        totals.append(count.total)
    assert totals[0] == totals[1]


def test_training_in_fp8_is_refused_rather_than_miscounted():
    model = built("deepseek-v3-small", triton_ops.fp8())
    with pytest.raises(CountError), counting(model, counted.multiplied_in):
        model(torch.zeros(1, 64, dtype=torch.int64, device="meta")).sum().backward()
