"""A model on Triton's kernels counts as one on torch's: no product hides in a kernel."""

import pytest
import torch
from v3bench.kernels import ffn, fp8_ffn, fp8_norm_linear, norm_linear, triton_ops
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


@pytest.mark.parametrize(
    "preset, own",
    [
        ("deepseek-v3-small", triton_ops.TRITON),
        ("llama-small", triton_ops.TRITON),
        ("llama-small", triton_ops.fp8()),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_training_counts_alike(preset, own):
    totals = []
    for ops in (TORCH, own):
        model = built(preset, ops)
        with counting(model, counted.multiplied_in) as count:
            model(torch.zeros(1, 64, dtype=torch.int64, device="meta")).sum().backward()
        totals.append(count.total)
    assert totals[0] == totals[1]


def test_training_in_fp8_is_refused_rather_than_miscounted():
    model = built("deepseek-v3-small", triton_ops.fp8())
    with pytest.raises(CountError), counting(model, counted.multiplied_in):
        model(torch.zeros(1, 64, dtype=torch.int64, device="meta")).sum().backward()


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_network_and_a_norms_products_count_as_their_plain_forms(training, before):
    """The formulas of what one FP8 operation multiplies, beside aten's products of the plain form; by weight too."""
    D, F, tokens = 48, 32, (2, 3)
    made = {"gate_up": (2 * F, D), "down": (D, F), "one": (16, D), "other": (80, D), "norm": (D,), "b": (2 * F,)}
    weights = torch.nn.ParameterDict({name: torch.empty(shape, device="meta") for name, shape in made.items()})
    x = torch.empty(*tokens, D, device="meta", requires_grad=training)

    def count(network, products):
        norm = (weights["norm"], 1e-6) if before else None
        with counting(weights) as found, torch.set_grad_enabled(training):
            y = network(x, weights["gate_up"], weights["down"], weights["b"], norm_before=norm)
            parts = products(y, weights["norm"], 1e-6, (weights["one"], weights["other"]))
            assert [part.shape for part in parts] == [(*tokens, 16), (*tokens, 80)]
            if training:
                sum(part.sum() for part in parts).backward()
        return found

    want = count(ffn.ffn, norm_linear.norm_linear)
    got = count(fp8_ffn.fp8_ffn, fp8_norm_linear.fp8_norm_linear)
    assert got.total == want.total == (3 if training else 1) * 2 * 6 * D * (3 * F + 16 + 80)
    assert got.by_part["one"] + got.by_part["other"] == (3 if training else 1) * 2 * 6 * D * (16 + 80)
    if not training:  # what reads two weights has the name of the first
        assert got.by_part == {"gate_up": 2 * 6 * D * 3 * F, "one": 2 * 6 * D * 16, "other": 2 * 6 * D * 80}
