"""Runs as measurements: kept as they end, made once, told apart by seed and corpus."""

import dataclasses
from dataclasses import replace
from functools import cache

import pytest
import torch
from v3bench.model_ref import crew
from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws import flops, params
from v3bench.suite.ledger import cases
from v3bench.suite.ledger.cases import Case
from v3bench.suite.meter.measure import ONCE
from v3bench.suite.meter.recorder import Recorder
from v3bench.suite.meter.session import Plan as SessionPlan
from v3bench.suite.meter.session import Session
from v3bench.suite.train import campaign, checkpoint, corpus, gap, pairs, proxies
from v3bench.suite.train.campaign import Campaign, begin_alike
from v3bench.suite.train.trainer import Trainer


class Folder:
    """A run folder in memory."""

    def __init__(self, path):
        self.path, self.found, self.files = path, [], {}

    def append(self, *records):
        self.found.extend(records)

    def write(self, name, content):
        self.files[name] = content


@cache
def outcome(plan):
    """Of a plan; training is deterministic, so each is trained once for all tests."""
    return checkpoint.train(plan)


@pytest.fixture
def made(monkeypatch):
    """The plans that were run, in this process."""
    plans = []

    def completed(wanted):
        for one in wanted:
            plans.append(one)
            yield one, outcome(one)

    monkeypatch.setattr(campaign.pool, "completed", completed)
    return plans


@pytest.fixture
def recorder(plan, folder, monkeypatch, tmp_path):
    """Recorders of one case, each of a new session over the same run folder."""
    proxy = proxies.Proxy(preset=plan.model, change=plan.change, why="a test")
    monkeypatch.setattr(proxies, "load", lambda: {"small": proxy})
    shape = {"model": "small", "steps": 8, "batch": 1, "length": 8, "corpus": str(folder), "seeds": 3, "window": 2}
    case = Case(
        name="c", area="fp8", bench="loss_gap", metric="loss_gap", basis="measured", version=1, profiles=("quick",),
        subjects=("proxy.bf16", "proxy.fp8"), impls=("emulated",), why="a test", shape=shape,
    )  # fmt: skip
    kept = Folder(tmp_path)

    def make(resume=False, **changed):
        session = Session(SessionPlan(profile="quick", device="cpu", cases={}, folder=kept, resume=resume))
        changed = {"shape": shape | changed.pop("shape", {})} | changed
        return Recorder(session, dataclasses.replace(case, **changed), "proxy.fp8/emulated", None, ONCE)

    return make


def test_a_gap_for_each_seed(recorder, made, small):
    one = recorder()
    found = Campaign(one, "cpu").gaps("fp8")
    assert [(p.recipe, p.init, p.order) for p in made] == [(r, n, n) for r in ("bf16", "fp8") for n in range(3)]
    (record,) = one.pending
    assert (record.metric, record.subject, record.samples) == ("loss_gap", "proxy.fp8", tuple(found))
    assert record.convention == f"against bf16, second half of 8 steps; corpus {small.sha256[:12]}"
    assert (record.precision, record.scale) == ("fp8, emulated", "proxy")
    losses = {(p.recipe, p.init): outcome(p).losses for p in made}
    assert found[0] == pairs.late(pairs.gaps(losses["fp8", 0], losses["bf16", 0], 2))


def test_a_gap_is_taken_behind_the_shared_steps(recorder, made):
    one = recorder(shape={"shared": 3})
    found = Campaign(one, "cpu").gaps("fp8")
    assert {(p.steps, p.shared) for p in made} == {(11, 3)}
    mine, other = (outcome(next(p for p in made if p.recipe == name)).losses for name in ("fp8", "bf16"))
    assert mine[:3] == other[:3]
    assert found[0] == pairs.late(pairs.gaps(mine[3:], other[3:], 2))
    assert one.pending[0].convention.startswith("against bf16, second half of 8 steps behind 3 shared ones; corpus")


def test_the_report_finds_gaps_and_the_runs_behind_them(recorder, made, small, monkeypatch):
    """Conventions are text: what the report looks up is what a campaign writes."""
    pytest.importorskip("pandas")
    from v3bench.suite.report import paired_runs

    late = []
    for recipe in ("bf16", "fp8"):
        one = recorder(shape={"shared": 3})
        one.series = f"proxy.{recipe}/emulated"
        Campaign(one, "cpu").gaps(recipe)
        late += one.pending
    monkeypatch.setattr(cases, "load", lambda: {"c": one.case})
    (found,) = paired_runs.paired([*one.session.plan.folder.found, *late])
    assert found.corpus == small.sha256[:12]
    assert set(found.gaps) == {"bf16", "fp8"}
    for seed in range(3):
        for recipe, base in (("bf16", "fp32"), ("fp8", "bf16")):
            windows = found.windows((recipe, seed), (base, seed))
            assert pairs.late(windows) == found.gaps[recipe][seed]


def test_runs_are_kept_as_they_end_and_made_once(recorder, made, small):
    one = recorder()
    Campaign(one, "cpu").gaps("fp8")
    kept = one.session.plan.folder.found
    assert {(m.metric, m.subject, m.precision, len(m.samples)) for m in kept} == {
        ("run_loss", "proxy.bf16", "bfloat16", 8), ("run_loss", "proxy.fp8", "fp8, emulated", 8),
    }  # fmt: skip
    assert len({(m.subject, m.convention) for m in kept}) == 6
    files = one.session.plan.folder.files
    assert files == {f"corpus-{small.sha256[:12]}.json": small.as_json()}
    made.clear()
    Campaign(one, "cpu").gaps("bf16")
    assert {p.recipe for p in made} == {"fp32"}


def test_what_a_killed_run_has_made_is_not_made_again(recorder, made, monkeypatch):
    want = Campaign(recorder(), "cpu").gaps("fp8")
    folder = recorder().session.plan.folder
    del folder.found[2:]  # killed after the first two runs
    made.clear()
    assert Campaign(recorder(resume=True), "cpu").gaps("fp8") == want
    assert len(made) == 4
    made.clear()
    Campaign(recorder(), "cpu").gaps("fp8")  # not resumed: all is measured anew
    assert len(made) == 6


def test_another_version_or_corpus_is_not_taken(recorder, made, tmp_path):
    Campaign(recorder(), "cpu").gaps("fp8")
    made.clear()
    Campaign(recorder(resume=True, version=2), "cpu").gaps("fp8")
    assert len(made) == 6
    made.clear()
    other = tmp_path / "other"
    other.mkdir()
    for n in range(9):
        (other / f"{n}.txt").write_text(f"{n}" * 100)
    Campaign(recorder(resume=True, shape={"corpus": str(other)}), "cpu").gaps("fp8")
    assert len(made) == 6


def test_held_out_losses(recorder, made):
    one = recorder(metric="held_out_loss", shape={"held_out": 64})
    found = Campaign(one, "cpu").held_out("small")
    assert found == [outcome(p).held_out for p in made]
    assert one.pending[0].samples == tuple(found)
    again = recorder(resume=True, metric="held_out_loss", shape={"held_out": 64})
    assert Campaign(again, "cpu").held_out("small") == found
    assert len(made) == 3


def test_a_run_that_diverges_fails(recorder, made, monkeypatch):
    def completed(wanted):
        yield wanted[0], outcome(wanted[0])._replace(losses=(5.0,), why="the loss of step 1 is nan")

    monkeypatch.setattr(campaign.pool, "completed", completed)
    one = recorder()
    with pytest.raises(pytest.fail.Exception, match=r"bf16, seed 0; corpus .*: the loss of step 1 is nan"):
        Campaign(one, "cpu").gaps("fp8")
    (record,) = one.session.plan.folder.found
    assert (record.status, record.why) == ("failed", "the loss of step 1 is nan")
    monkeypatch.setattr(campaign.pool, "completed", lambda wanted: pytest.fail(f"tried again: {wanted}"))
    with pytest.raises(pytest.fail.Exception, match=r"bf16, seed 0; corpus .*: the loss of step 1 is nan"):
        Campaign(one, "cpu").gaps("control-2-bit")  # another series, held against the same run


def test_a_corpus_that_changes_meanwhile_is_refused(recorder, monkeypatch):
    def completed(wanted):
        yield wanted[0], outcome(wanted[0])._replace(corpus="0")

    monkeypatch.setattr(campaign.pool, "completed", completed)
    with pytest.raises(BadInput, match="changed while runs were made"):
        Campaign(recorder(), "cpu").gaps("fp8")


def test_begin_alike(plan, small):
    runs = [Trainer(replace(plan, recipe=recipe), small) for recipe in ("bf16", "fp8")]
    begin_alike(runs)
    with pytest.raises(AssertionError, match="different arithmetic gives one loss"):
        begin_alike([Trainer(plan, small) for _ in range(2)])
    other = Trainer(replace(plan, init=3), small)
    other.model.head.weight.data.mul_(100)
    with pytest.raises(AssertionError, match="apart"):
        begin_alike([Trainer(plan, small), other])


def test_one_thread():
    torch.set_num_threads(2)
    try:
        with crew.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)  # as all tests have it


def test_proxies():
    found = proxies.load()
    assert all(len(proxy.why) > 20 for proxy in found.values())
    assert all(proxy.config.vocab_size >= corpus.WORDS for proxy in found.values())
    with pytest.raises(BadInput, match="no proxy 'v4'"):
        proxies.read("v4")
    assert proxies.tried("proxy.fp8/emulated") == "fp8"


def trained_cases():
    return [case for case in cases.load().values() if case.bench in ("loss_gap", "held_out", "train_step_precision")]


@pytest.mark.parametrize("case", trained_cases(), ids=lambda case: case.name)
def test_every_case_has_a_plan_within_one_epoch(case):
    models = ("mha", "mla") if case.bench == "held_out" else ("",)
    for one in (campaign.plan_of(case.shape, "cpu", model) for model in models):
        if one.corpus == "stdlib":  # what else is installed differs from machine to machine
            tokens = corpus.load("stdlib").train
            corpus.Batches(tokens, one.batch, one.length, 0).need(one.steps, one.corpus)
        assert one.config.vocab_size == corpus.WORDS
    if case.bench == "loss_gap":
        assert case.shape["seeds"] >= gap.FEWEST
        assert case.shape["steps"] // case.shape["window"] >= 4
        tried = {proxies.tried(subject) for subject in case.subjects}
        assert tried >= {"bf16", "fp8", "control-2-bit"}  # floor, recipe and control


def test_the_full_case_is_of_the_size_it_says():
    shape = cases.load()["loss-gap-full"].shape
    one = campaign.plan_of(shape, "cuda")
    counted = params.count(one.config)
    assert counted.total >= 300e6
    assert counted.activated <= 40e6
    assert shape["steps"] * one.batch * one.length >= 20e6
    assert flops.train(one.config, one.length) / one.length == pytest.approx(34.4e6, rel=0.01)  # as the case says
    widths = ("hidden_size", "q_lora_rank", "kv_lora_rank", "v_head_dim", "intermediate_size", "moe_intermediate_size")
    assert all(getattr(one.config, name) % 128 == 0 for name in widths)


def test_what_is_on_record_can_be_judged(recorder, made):
    """The rule takes the records' samples as they are."""
    one = recorder()
    gaps = {recipe: Campaign(one, "cpu").gaps(recipe) for recipe in ("bf16", "fp8", "control-2-bit")}
    found = gap.judge(gaps["fp8"], gaps["bf16"], gaps["control-2-bit"], 0.0025)
    assert found.seeds == 3
