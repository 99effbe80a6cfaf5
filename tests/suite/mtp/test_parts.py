"""Parts of a decode step: the modules' own results, real shapes, what is read, and how both steps are timed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from v3bench.kernels.ops import REFERENCE
from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput
from v3bench.suite import models
from v3bench.suite.laws import speculation
from v3bench.suite.laws.speculation import Deployment
from v3bench.suite.meter import graph
from v3bench.suite.meter.clock import Steady
from v3bench.suite.meter.competition import Instruments
from v3bench.suite.meter.measure import DEVICE_EFFORTS, Effort
from v3bench.suite.meter.scale import of_weights
from v3bench.suite.mtp import conventions as named
from v3bench.suite.mtp import part_source, part_times, parts
from v3bench.suite.mtp.part_source import BOTH, EACH, Step, agree
from v3bench.suite.trials.trial import Missing

from ..meter.conftest import FakeCuda
from ..there import there
from .small import RAW

V3 = models.load("deepseek-v3")[1]
SMALL = Config.from_dict(RAW | {"num_nextn_predict_layers": 1, "n_routed_experts": 8, "vocab_size": 24})
CONTEXT, B = 5, 3


@pytest.fixture(autouse=True)
def small_cache(monkeypatch):
    """A CPU whose last cache holds little, so that there are few copies of small weights."""
    monkeypatch.setattr(part_source.machine, "last_cache", lambda: 200)


def built(name, config=SMALL, device="cpu", **options):
    torch.manual_seed(0)
    return parts.build(name, config, device, **{"ep": 4, "ways": 2, **options})


@pytest.mark.parametrize("name", named.PARTS)
def test_two_tokens_at_once_are_each_by_itself_and_the_definition(name):
    for options in ({"ep": 4}, {"ep": 1}):
        one, plain = (built(name, **options, ops=ops).at(B, CONTEXT) for ops in (None, REFERENCE))
        agree(one)
        got, want = one.run(0, BOTH), plain.run(0, BOTH)
        assert got.shape[one.axis] % 2 == 0
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()
        assert got.std() > 0


@pytest.mark.parametrize("name", named.PARTS)
def test_the_check_can_fail(name):
    step = built(name).at(B, CONTEXT)

    def wrong(copy, tokens):
        out = step.run(copy, tokens)
        return out * (1 + 1e-4) if tokens == BOTH else out

    with pytest.raises(AssertionError, match="times what rounding explains"):
        agree(Step(wrong, step.copies, step.axis, step.nbytes))


def test_attention_sees_the_context_and_the_token_before():
    step = built(named.MLA).at(B, CONTEXT)
    both = step.run(0, BOTH)
    second = step.run(0, EACH[1])
    assert torch.allclose(second, both[:, 1:], rtol=1e-5)
    (cache,) = (cell.cell_contents for cell in closure(step.run) if type(cell.cell_contents).__name__ == "Cache")
    assert cache.capacity == CONTEXT + 2
    cache.layers[0][:, CONTEXT] = 0  # the first token's entry
    assert not torch.allclose(step.run(0, EACH[1]), second, rtol=1e-4)
    cache.layers[0][:, 0] += 1
    assert not torch.allclose(step.run(0, BOTH), both, rtol=1e-4)


def closure(function):
    return function.__wrapped__.__closure__


@pytest.mark.parametrize("name", named.PARTS)
def test_deepseek_v3_s_own_shapes_are_a_slice(name):
    part = built(name, V3, "meta", ep=144, ways=4)
    assert of_weights("deepseek-v3", part.shapes) == "slice"
    assert of_weights("deepseek-v2", part.shapes) == "proxy"
    assert of_weights("deepseek-v3", built(name).shapes) == "proxy"


def test_one_gpu_of_144_holds_two_experts_and_what_a_balanced_share_brings():
    part = built(named.EXPERTS, V3, "meta", ep=144)
    assert part.shapes == [(2, 4096, 7168), (2, 7168, 2048)]
    step = built(named.EXPERTS, ep=4).at(B, CONTEXT)  # two of eight experts, K = 2
    assert len(step.run(0, EACH[0])) == 2 * B
    assert len(step.run(0, BOTH)) == 4 * B
    assert step.nbytes[0] == step.nbytes[1] == 2 * expert()


def expert():
    return 3 * RAW["hidden_size"] * RAW["moe_intermediate_size"] * 4


def test_one_gpu_with_all_experts_reads_those_that_were_chosen():
    config = SMALL.replace(n_routed_experts=64)
    step = built(named.EXPERTS, config, ep=1).at(B, CONTEXT)
    assert step.copies == parts.DRAWN
    one, two = (nbytes / expert() for nbytes in step.nbytes)
    for tokens, read in ((1, one), (2, two)):
        assert read == pytest.approx(speculation.touched(config, Deployment(batch=B), tokens), rel=0.1)
        assert read <= tokens * B * config.num_experts_per_tok


def test_bytes_are_the_weights_and_the_cache():
    weights = sum(torch.Size(shape).numel() for shape in built(named.DENSE_FFN).shapes) * 4
    assert built(named.DENSE_FFN).at(B, CONTEXT).nbytes == (weights, weights)
    weights = sum(torch.Size(shape).numel() for shape in built(named.MLA).shapes) * 4
    cached = B * CONTEXT * (RAW["kv_lora_rank"] + RAW["qk_rope_head_dim"]) * 4
    assert built(named.MLA).at(B, CONTEXT).nbytes == pytest.approx((weights + cached,) * 2)


def test_small_weights_are_gone_round_in_copies_larger_than_the_cache(monkeypatch):
    nbytes = part_source.size(built(named.SHARED).copies[0])
    monkeypatch.setattr(part_source.machine, "last_cache", lambda: nbytes)
    part = built(named.SHARED)
    assert len(part.copies) == part_source.FLUSH
    first, second = (copy.w_down for copy in part.copies[:2])
    assert first.data_ptr() != second.data_ptr()
    step = part.at(1, CONTEXT)
    seen = []
    watched = Step(lambda copy, tokens: seen.append((copy, len(tokens))), step.copies, 1, step.nbytes)
    part_times.on_cpu(watched, Effort(2, 1, 60.0))
    assert seen == [(0, 1), (1, 2), (2, 1), (3, 2), (4, 2), (5, 1)]


def test_what_does_not_fit_is_missing(monkeypatch):
    monkeypatch.setattr(part_source, "free_memory", lambda device: 1 << 30)
    with pytest.raises(Missing, match=r"needs .* GB of cpu memory"):
        built(named.DENSE_FFN)


def test_a_part_that_is_none_is_refused():
    with pytest.raises(BadInput, match=r"no part 'gate'.*mla, dense-ffn"):
        built("gate")


def test_on_a_gpu_both_steps_are_captured_over_all_copies_and_timed_in_turns():
    step = Step(lambda copy, tokens: (copy, len(tokens)), 3, 0, (10.0, 20.0))
    order, captured = [], []

    def capture(calls):
        captured.append([call() for call in calls])
        number = captured[-1][0][1]
        return SimpleNamespace(launches=3, replay=lambda: order.append(number), release=lambda: None)

    def clock(run):
        run()
        return 6e-6 * (1.25 if order[-1] == 2 else 1.0)

    tools = Instruments(capture, lambda: clock, lambda: clock, lambda: None, None)
    taken = part_times.on_gpu(step, Effort(2, 0, 60.0), tools)
    assert captured == [[(0, 1), (1, 1), (2, 1)], [(0, 2), (1, 2), (2, 2)]]
    assert order == [1, 2, 2, 1]
    assert taken == {1: pytest.approx((2e-6,) * 2), 2: pytest.approx((2.5e-6,) * 2)}
    assert part_times.cost(taken) == pytest.approx((1.25,) * 2)
    assert part_times.rate(step, taken, 2) == pytest.approx((8e6,) * 2)


def test_a_session_on_a_gpu_times_what_its_graphs_take(monkeypatch):
    """Through real captures and clocks, on a stand-in for torch.cuda whose launches take what they are told."""
    device = FakeCuda()
    device.patch(monkeypatch)
    tools = Instruments(graph.capture, Steady, Steady, torch.cuda.synchronize, None)
    plan = SimpleNamespace(device="cuda", profile="full")
    record = SimpleNamespace(session=SimpleNamespace(plan=plan, instruments=tools), effort=None)
    step = Step(lambda copy, tokens: device.launch(30e-6 + 10e-6 * copy + 2e-6 * len(tokens)), 2, 0, (1.0, 1.0))
    taken = part_times.taken(step, record, 0)
    assert len(taken[1]) == len(taken[2]) == DEVICE_EFFORTS["full"].rounds
    assert (taken[1][0], taken[2][0]) == pytest.approx((37e-6, 39e-6)), "the mean over both copies"
    assert device.log.count("reset") >= 2, "their memory is given back"


def test_a_step_that_cannot_be_captured_says_why():
    def capture(calls):
        raise RuntimeError("waits for the device")

    tools = Instruments(capture, lambda: None, lambda: None, lambda: None, None)
    with pytest.raises(AssertionError, match="one token: RuntimeError: waits for the device"):
        part_times.on_gpu(Step(lambda copy, tokens: None, 1, 0, (1.0, 1.0)), Effort(1, 0, 1.0), tools)


THERE = """
from unittest.mock import patch
from v3bench.suite import models
from v3bench.suite.mtp import conventions as named
from v3bench.suite.mtp import part_source, parts

config, found = models.load("deepseek-v3")[1], {}
room = patch.object(part_source, "free_memory", lambda device: 10**11)
cache = patch.object(part_source.graph, "l2_bytes", lambda: 50 << 20)
with standin.present(), standin.compiling(lambda key: False) as asked, torch.no_grad(), room, cache:
    for name, ep in [*((name, 144) for name in named.PARTS), (named.EXPERTS, 1)]:
        part = parts.build(name, config, "cuda", ep=ep)
        before, outputs = len(asked), []
        for B in (1, 128):
            step = part.at(B, 4096)
            outputs += [step.calls(tokens)[-1]() for tokens in (1, 2)]
        assert all(out.is_cuda and out.dtype == torch.bfloat16 for out in outputs)
        names = sorted({one.name for one in asked[before:]})
        found[f"{name} {ep}"] = [len(part.copies), step.copies, [out.shape[:-1].numel() for out in outputs], names]
print(json.dumps(found))
"""


def test_every_part_runs_at_deepseek_v3_s_sizes_on_a_gpu_s_launchers():
    """On a GPU that is not there: kernels take these sizes, all lies on one device, and nothing waits for it."""
    pytest.importorskip("triton")
    found = there(THERE)
    rows = {key: value[2] for key, value in found.items()}
    assert rows == {f"{name} 144": [1, 2, 128, 256] for name in named.PARTS if name != named.EXPERTS} | {
        "routed-experts 144": [8, 16, 1024, 2048], "routed-experts 1": [1, 2, 128, 256],
    }  # fmt: skip
    assert {key: value[0] for key, value in found.items() if value[0] != 1} == {"shared-expert 144": 2}
    assert found["routed-experts 1"][1] == parts.DRAWN
    assert {"kernel_few", "kernel_many"} & set(found["mla 144"][3]), "attention on this project's own kernels"
