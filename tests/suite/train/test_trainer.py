"""Training: deterministic, resumable to the same bits, pairs that differ in nothing but arithmetic."""

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from v3bench.model_ref.errors import BadInput
from v3bench.suite.train import checkpoint, corpus
from v3bench.suite.train.plan import Plan
from v3bench.suite.train.trainer import Trainer

DENSE = {
    "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 40, "vocab_size": 256,
}  # fmt: skip


@pytest.fixture
def dense(plan):
    return replace(plan, model="llama-small", change=DENSE)


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp8"])
def test_deterministic_and_learning(plan, recipe):
    plan = replace(plan, recipe=recipe, steps=16, rate=6e-3, held_out=200)
    first = checkpoint.train(plan)
    torch.manual_seed(99)  # nothing comes from the global generator
    assert checkpoint.train(plan) == first
    assert sum(first.losses[-4:]) < sum(first.losses[:4]) - 1
    assert 2 < first.held_out < first.losses[0]


def test_global_generator_is_left_alone(plan, small):
    before = torch.get_rng_state()
    Trainer(plan, small).step()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["plan", "dense"])
def test_resume_gives_the_same_bits(request, model, recipe, small, tmp_path):
    plan = replace(request.getfixturevalue(model), recipe=recipe)
    whole = Trainer(plan, small)
    for _ in range(plan.steps):
        whole.step()
    path = tmp_path / "run.safetensors"
    first = Trainer(plan, small)
    for _ in range(3):
        first.step()
    checkpoint.write(first, path)
    rest = Trainer(plan, small)
    checkpoint.resume(rest, path)
    assert rest.done == 3
    while rest.done < plan.steps:
        rest.step()
    assert rest.outcome() == whole.outcome()
    one, other = whole.state(), rest.state()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_goes_on_from_a_file(plan, tmp_path):
    path, whole, seen = tmp_path / "states" / "run.safetensors", checkpoint.train(plan), []

    def killed(trainer):
        if trainer.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.trained(plan, path=path, every=3, after=killed)
    assert int(load_file(path)["done"]) == 6
    again = checkpoint.trained(plan, path=path, every=3, after=lambda trainer: seen.append(trainer.done))
    assert again.outcome() == whole
    assert seen == list(range(7, plan.steps + 1))
    assert checkpoint.trained(plan, path=path, after=lambda trainer: pytest.fail("trained anew")).outcome() == whole


def test_a_disk_that_is_full_is_one_line_and_leaves_the_last_state(plan, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    checkpoint.trained(plan, path=path, every=3)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BadInput, match=r"cannot be written \(No space left on device\); what was saved before stays"):
        checkpoint.write(checkpoint.trained(plan, path=path), path)
    assert path.read_bytes() == before


def test_another_plan_or_corpus_is_refused(plan, small, tmp_path):
    path = tmp_path / "run.safetensors"
    checkpoint.trained(plan, path=path, every=8)
    with pytest.raises(BadInput, match="is of another plan"):
        checkpoint.trained(replace(plan, rate=1e-4), path=path)
    other = replace(small, sha256="0")
    with pytest.raises(BadInput, match="is of another corpus"):
        checkpoint.trained(plan, path=path, corpus=other)
    path.write_bytes(b"\x08" + path.read_bytes()[1:40])
    with pytest.raises(BadInput, match="cannot be read"):
        checkpoint.trained(plan, path=path)


def test_runs_share_their_beginning(plan, small):
    """The shared steps are FP32's, to the bit, and so is the rest of an FP32 run; another recipe parts from it then."""
    whole = checkpoint.train(plan)
    assert checkpoint.train(replace(plan, shared=5)) == whole
    apart = checkpoint.train(replace(plan, shared=5, recipe="bf16"))
    assert apart.losses[:5] == whole.losses[:5]
    assert all(one != other for one, other in zip(apart.losses[5:], whole.losses[5:], strict=True))
    assert checkpoint.train(replace(plan, shared=5, recipe="bf16")) == apart  # the kept beginning has not moved


def test_weights_of_losses_change_on_the_way(plan, small):
    """V3 report, section 4.2: less weight on further tokens in the end, and biases that rest."""
    plan = replace(plan, steps=10, mtp_weight_last=0.1, mtp_switch=0.6, bias_until=0.9)
    assert [plan.mtp_weight_at(step) for step in range(10)] == [0.3] * 6 + [0.1] * 4
    assert [plan.bias_speed_at(step) for step in range(10)] == [1e-3] * 9 + [0.0]


def test_masters_are_the_same_whatever_the_recipe(plan, small):
    runs = [Trainer(replace(plan, recipe=recipe), small) for recipe in ("fp32", "bf16", "fp8")]
    for name, master in runs[0].masters.items():
        for run in runs[1:]:
            assert run.masters[name].dtype == torch.float32
            assert torch.equal(run.masters[name], master)
            assert run.parameters[name].dtype == torch.bfloat16
            assert torch.equal(run.parameters[name], master.bfloat16())
    assert all(torch.equal(run.batches[2], runs[0].batches[2]) for run in runs)


def test_masters_move_by_less_than_the_weights_can_show(plan, small):
    # A step of 1e-6 of a weight of 1 is far below BF16's last digit; only FP32 masters add it up.
    trainer = Trainer(replace(plan, recipe="bf16", rate=1e-6, decay=0.0), small)
    name = "layers.0.attn_norm.weight"
    before = trainer.masters[name].clone()
    trainer.step()
    assert not torch.equal(trainer.masters[name], before)
    assert torch.equal(trainer.parameters[name], before.bfloat16())


def test_optimiser_states_are_wide(plan, small):
    trainer = Trainer(replace(plan, recipe="bf16"), small)
    trainer.step()
    states = [tensor for state in trainer.optimizer.state.values() for tensor in state.values()]
    assert {tensor.dtype for tensor in states} == {torch.float32}


def test_biases_balance(plan, small):
    trainer = Trainer(replace(plan, bias_speed=0.5), small)
    trainer.step()
    (bias,) = trainer.buffers().values()
    assert bias.abs().max() == 0.5


def test_first_step_is_that_of_plain_adamw(dense, small):
    trainer = Trainer(dense, small)
    model = Trainer(dense, small).model
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": dense.decay},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=dense.rate_at(0), betas=dense.betas,
    )  # fmt: skip
    model.loss(trainer.batches[0]).total.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), dense.clip)
    optimizer.step()
    trainer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(trainer.parameters[name], parameter)  # fused and plain differ in the last digit


def test_mtp_is_trained_too(plan, small):
    trainer = Trainer(replace(plan, mtp=True), small)
    before = trainer.masters["mtp.0.eh_proj.weight"].clone()
    trainer.step()
    assert not torch.equal(trainer.masters["mtp.0.eh_proj.weight"], before)


def test_a_run_that_diverges_says_where(plan, small):
    trainer = Trainer(plan, small)
    trainer.step()
    trainer.losses[1] = float("nan")
    trainer.done = 2
    outcome = trainer.outcome()
    assert len(outcome.losses) == 1
    assert outcome.why == "the loss of step 1 is nan"


def test_held_out_loss_is_that_of_all_windows(dense, small):
    trainer = Trainer(dense, small)
    n = (len(small.held_out) - 1) // dense.length
    windows = [small.held_out[i * dense.length : (i + 1) * dense.length + 1].long()[None] for i in range(n)]
    with torch.no_grad():
        want = sum(trainer.model.loss(ids).main.item() for ids in windows) / n
    assert trainer.held_out_loss(10**6) == pytest.approx(want, rel=1e-5)  # batches add in another order
    with pytest.raises(BadInput, match="held out"):
        trainer.held_out_loss(3)


def test_one_epoch(plan, small):
    with pytest.raises(BadInput, match="more than one epoch"):
        Trainer(replace(plan, steps=1000), small)


def test_plans(plan):
    assert Plan.from_json(plan.as_json()) == plan
    assert json.loads(plan.as_json())["steps"] == 8
    with pytest.raises(BadInput, match="unknown recipe 'fp7'"):
        replace(plan, recipe="fp7")
    with pytest.raises(BadInput, match="batch is 0"):
        replace(plan, batch=0)
    with pytest.raises(BadInput, match="shared is 8; expected 0 to 7, less than steps"):
        replace(plan, shared=8)
    with pytest.raises(BadInput, match="vocab_size 100"):
        Trainer(replace(plan, change={**plan.change, "vocab_size": 100}), corpus.load(plan.corpus))


def test_learning_rate(plan):
    plan = replace(plan, steps=100, warmup=10, rate=1.0, last=0.1)
    assert plan.rate_at(0) == pytest.approx(0.1)
    assert plan.rate_at(9) == plan.rate_at(10) == 1.0
    assert plan.rate_at(55) == pytest.approx(0.55)
    assert 0.1 < plan.rate_at(99) < 0.11
