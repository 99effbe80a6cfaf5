"""The benchmarks of MTP: one proxy, hardly trained, through all of them; what they record, and what they keep."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from v3bench.model_ref import load_pretrained
from v3bench.model_ref.errors import BadInput
from v3bench.suite import cli, generation, tokens
from v3bench.suite.bench import bench_mtp
from v3bench.suite.ledger import cases
from v3bench.suite.ledger.data import table
from v3bench.suite.meter.measure import ONCE
from v3bench.suite.meter.recorder import Recorder
from v3bench.suite.meter.session import Plan, Session
from v3bench.suite.mtp import conventions as named
from v3bench.suite.mtp import proxy
from v3bench.suite.train import corpus
from v3bench.suite.train.corpus import END, Corpus, Source

from ..vocabularies import bpe

pytestmark = pytest.mark.filterwarnings("ignore:.*not writable:UserWarning")
V3 = "proxy.mtp-v3"
COURSE = {"steps": 4, "batch": 2, "length": 32, "warmup": 1, "visits": [2]}


class Folder:
    """As much of a run folder as training needs."""

    def __init__(self, path):
        self.path, self.found = path, []

    def append(self, *records):
        self.found.extend(records)

    def write(self, name, content):
        (self.path / name).write_text(json.dumps(content))


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A session over the smoke profile's cases, with a shorter course."""
    monkeypatch.setattr(proxy, "KEPT", {})
    table = dict(cases.load())
    course = table["mtp-learning-smoke"]
    table[course.name] = dataclasses.replace(course, shape={**course.shape, **COURSE, "files": 3, "window": 32})
    said = []
    plan = Plan(profile="smoke", device="cpu", cases=table, folder=Folder(tmp_path), say=said.append)
    return Session(plan)


def run(session, name, series, function, **changed):
    """The records of a benchmark."""
    case = session.plan.cases[name]
    case = dataclasses.replace(case, shape={**case.shape, **changed})
    recorder = Recorder(session, case, series, None, ONCE)
    before = len(session.records)
    getattr(bench_mtp, function)(recorder, case, series, "cpu")
    records = [*session.records[before:], *recorder.pending]
    assert {m.metric for m in records} <= set(table("metrics"))
    assert {(m.scale, m.basis, m.area) for m in records} == {("proxy", "measured", "mtp")}
    return records


SHORT = {"files": 3, "window": 32}


def test_a_course_is_measured_on_the_way_and_kept(session):
    *found, losses = run(session, "mtp-learning-smoke", f"{V3}/module", "test_learning")
    assert (losses.metric, len(losses.samples)) == ("run_loss", 4)
    steps = [(m.metric, named.parse_learning(m.convention).steps, len(m.samples)) for m in found]
    assert steps == [(metric, n, 3) for n in (2, 4) for metric in ("acceptance_rate", "bits_per_byte")]
    assert "trained on 128 tokens of stdlib" in found[0].convention
    (listed,) = session.plan.folder.path.glob("corpus-*.json")
    assert json.loads(listed.read_text())["sha256"].startswith(found[0].convention.rpartition(" ")[2])
    folder, state = sorted((session.plan.folder.path / proxy.FOLDER).iterdir())
    assert (folder.name, state.name) == ("mtp-learning-smoke-mtp-v3", "mtp-learning-smoke-mtp-v3.safetensors")
    model = proxy.trained(session, session.plan.cases["mtp-learning-smoke"], V3).model
    read = load_pretrained(folder).state_dict()
    assert all(torch.equal(read[key], w) for key, w in model.state_dict().items())


def test_a_course_that_was_cut_goes_on(session, monkeypatch):
    """What was seen before the cut is kept, not seen again; a run that is resumed does not take the case for done."""
    real = proxy.checkpoint.trained

    def cut(plan, *, path, every, after):
        def killed(trainer):
            after(trainer)
            if trainer.done == 4:
                raise KeyboardInterrupt

        return real(plan, path=path, every=3, after=killed)

    case, series = session.plan.cases["mtp-learning-smoke"], f"{V3}/module"
    monkeypatch.setattr(proxy.checkpoint, "trained", cut)
    with pytest.raises(KeyboardInterrupt):
        run(session, case.name, series, "test_learning")
    assert not proxy.KEPT
    session.plan.resume = True
    assert not session.done(case, series, "")
    monkeypatch.setattr(proxy.checkpoint, "trained", real)
    found = run(session, case.name, series, "test_learning")
    assert [named.parse_learning(m.convention).steps for m in found[:-1]] == [4, 4]
    assert [m.metric for m in session.records].count("bits_per_byte") == 2  # after 2 steps and after 4


def test_a_course_that_has_ended_is_not_trained_again(session, monkeypatch):
    first = proxy.trained(session, session.plan.cases["mtp-learning-smoke"], V3)
    assert proxy.trained(session, session.plan.cases["mtp-acceptance-smoke"], V3) is first
    monkeypatch.setattr(proxy, "KEPT", {})  # another process
    monkeypatch.setattr(proxy.checkpoint.Trainer, "step", lambda self: pytest.fail("trained anew"))
    again = proxy.trained(session, session.plan.cases["mtp-acceptance-smoke"], V3)
    assert again.about == first.about
    assert all((a == b).all() for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))


def test_acceptance_by_position_temperature_and_kind(session):
    found = run(session, "mtp-acceptance-smoke", f"{V3}/module", "test_acceptance", **SHORT)
    by = {(m.metric, *vars(named.parse_forced(m.convention)).values()) for m in found if m.metric != "bits_per_byte"}
    kinds = {kind for *_, kind, _ in by}
    assert named.ALL_TEXT in kinds
    assert kinds <= {named.ALL_TEXT, *named.KINDS}
    assert {(metric, d, t) for metric, d, t, *_ in by} == {
        (metric, d, t)
        for d in (1, 2, 3)
        for metric, t in (("acceptance_rate", 0.0), ("acceptance_rate", 1.0), ("draft_accuracy", None))
    }
    assert all(0 <= sample <= 1 for m in found for sample in m.samples if m.metric != "bits_per_byte")


def test_floors_and_the_model_stand_on_the_same_tokens(session):
    impls = session.plan.cases["mtp-floor-smoke"].impls
    assert set(impls) == {named.MOST_FREQUENT, named.LOOK_UP, named.NGRAM}
    found = [m for impl in impls for m in run(session, "mtp-floor-smoke", f"{V3}/{impl}", "test_floor", **SHORT)]
    assert [m.metric for m in found].count("acceptance_rate") == 3
    (bits,) = (m for m in found if m.metric == "bits_per_byte")
    assert named.parse_held_out(bits.convention)
    assert all(0 < value < 9 for value in bits.samples)
    assert {len(m.samples) for m in found} == {3}


def test_a_course_in_bf16_is_measured_in_bf16(session):
    """As on a GPU, where the recipe runs on kernels: its weights are BF16, and so is what is said of them."""
    course = session.plan.cases["mtp-learning-smoke"]
    shape = {**course.shape, "recipe": "bf16", "every": 4}
    session.plan.cases[course.name] = dataclasses.replace(course, shape=shape)
    found = run(session, course.name, f"{V3}/module", "test_learning")
    assert {m.precision for m in found} == {"bfloat16"}
    one = proxy.trained(session, session.plan.cases[course.name], V3)
    assert {w.dtype for w in one.model.parameters()} == {torch.bfloat16}
    assert one.rebuilt(one.plan.ops(), torch.bfloat16).ops.name == "torch-bf16"
    found = run(session, "mtp-acceptance-smoke", f"{V3}/module", "test_acceptance", **SHORT)
    assert all(m.samples for m in found)
    run(session, "mtp-floor-smoke", f"{V3}/{named.NGRAM}", "test_floor", **SHORT)
    assert len(run(session, "mtp-balance-smoke", f"{V3}/module", "test_balance", first=2, **SHORT)) == 6
    found = run(session, "mtp-speed-smoke", f"{V3}/bfloat16", "test_speculation", new=6, prompt=4, context=12)
    assert {m.precision for m in found} == {"bfloat16"}


def test_a_course_says_how_often_it_is_saved(session, monkeypatch):
    course = session.plan.cases["mtp-learning-smoke"]
    session.plan.cases[course.name] = dataclasses.replace(course, shape={**course.shape, "every": 3})
    steps = []
    write = proxy.checkpoint.write
    monkeypatch.setattr(
        proxy.checkpoint, "write", lambda trainer, path: (steps.append(trainer.done), write(trainer, path))
    )
    proxy.trained(session, session.plan.cases[course.name], V3)
    assert steps == [3, 4]


@pytest.fixture
def in_tokens(session, tmp_path, monkeypatch):
    """The same session on Python files of its own, a third of them held out, in the tokens of a tokenizer."""
    monkeypatch.setattr(corpus, "HELD_OUT", 3)
    text = tmp_path / "text"
    text.mkdir()
    for n in range(9):
        (text / f"{n}.py").write_text(f"# Number {n}, é.\nvalue = {n}\n" * 20)
    session.plan.corpus = str(text)
    session.plan.tokenizer = str(bpe(tmp_path / "tokenizer", ["# Number 1, é.\nvalue = 2\n"], size=290, start="<s>"))
    return session


def test_bits_of_tokens_are_told_per_byte(in_tokens):
    """By hand: the file's own bytes and tokens, and the model's loss on its first and its last window."""
    one = proxy.trained(in_tokens, in_tokens.plan.cases["mtp-learning-smoke"], V3)
    assert (one.model.config.vocab_size, one.plan.tokenizer) == (290, in_tokens.plan.tokenizer)
    found = run(in_tokens, "mtp-acceptance-smoke", f"{V3}/module", "test_acceptance", **SHORT, per_file=2)
    read, wanted = tokens.read(in_tokens.plan.tokenizer), []
    for source in one.corpus.sources:
        if source.held_out:
            text = (Path(in_tokens.plan.corpus) / source.name).read_bytes()
            ids = read.encode(text.decode())
            rows = torch.tensor([ids[:33], ids[-33:]])
            with torch.no_grad():
                logits = one.model(rows[:, :-1])
            nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()
            wanted.append(nats / math.log(2) * len(ids) / len(text))
    (bits,) = (m for m in found if m.metric == "bits_per_byte")
    assert len(wanted) == 3
    assert bits.samples == pytest.approx(wanted, rel=1e-5)
    assert bits.convention.startswith("held-out files; 3 files, 2 windows of 32 tokens of each; trained on ")
    assert bits.convention.endswith(f"of text {one.corpus.sha256[:12]}, tokenizer {read.sha256[:12]}")
    kinds = {named.parse_forced(m.convention).text for m in found if m.metric == "draft_accuracy"}
    assert kinds == {named.ALL_TEXT, *named.KINDS}


def test_bits_are_of_as_many_windows_as_half_of_the_files_have():
    files = [(f"{n}.txt", bytes(range(97, 123)) * n) for n in range(1, 41)]  # 26 to 1,040 bytes
    sources = tuple(Source(name, name, len(data), True, len(data)) for name, data in files)
    text = torch.frombuffer(bytearray(b"".join(data + END for _, data in files)), dtype=torch.uint8)
    one = SimpleNamespace(corpus=Corpus("text", sources, text[:0], text, "0"))
    shape = {"files": 40, "per_file": 2, "window": 32}
    few = bench_mtp.text_of(one, shape)
    assert len(few.names) == 38  # those of 65 bytes and more
    for most, per_file, count in ((64, 16, 21), (16, 16, 21), (32, 16, 21), (8, 8, 31), (2, 2, 38)):
        found = bench_mtp.longer_of(one, shape | {"bits_per_file": most})
        assert (found.ids.shape[1], len(found.names)) == (per_file, count)


def test_all_that_is_measured_of_proxies_goes_in_tokens(in_tokens):
    *found, losses = run(in_tokens, "mtp-learning-smoke", f"{V3}/module", "test_learning")
    assert len(losses.samples) == 4
    bits = [m.samples for m in found if m.metric == "bits_per_byte"]
    assert all(0 < value < math.log2(290) / 2 for samples in bits for value in samples)  # over two bytes a token
    for impl in in_tokens.plan.cases["mtp-floor-smoke"].impls:
        found = run(in_tokens, "mtp-floor-smoke", f"{V3}/{impl}", "test_floor", **SHORT)
        assert all(len(m.samples) == 3 for m in found)
    assert len(run(in_tokens, "mtp-balance-smoke", f"{V3}/module", "test_balance", first=2, **SHORT)) == 6
    assert run(in_tokens, "mtp-speed-smoke", f"{V3}/float32", "test_speculation", new=6, prompt=4, context=12)
    (listed,) = in_tokens.plan.folder.path.glob("corpus-*.json")
    assert json.loads(listed.read_text())["tokenizer"]["size"] == 290


def test_a_proxy_generates_by_its_tokenizer(in_tokens, capsys):
    proxy.trained(in_tokens, in_tokens.plan.cases["mtp-learning-smoke"], V3)
    folder = in_tokens.plan.folder.path / proxy.FOLDER / "mtp-learning-smoke-mtp-v3"
    assert (folder / "tokenizer.json").read_bytes() == Path(in_tokens.plan.tokenizer).read_bytes()
    asked = ["generate", str(folder), "--prompt", "value = é", "--max-new-tokens", "9", "--mtp", "--json"]
    assert cli.main(asked) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["tokens"]) == 9  # none of them ends a text
    assert answer["text"] == tokens.read(in_tokens.plan.tokenizer).decode(answer["tokens"])
    assert generation.stop_of(folder) == frozenset()


def test_bits_of_bytes_are_what_they_were(session):
    one = proxy.trained(session, session.plan.cases["mtp-learning-smoke"], V3)
    text = bench_mtp.text_of(one, {"files": 3, "per_file": 1, "window": 32})
    bits = torch.rand(3, 30)
    assert torch.equal(bench_mtp.per_byte(bits, text), bits.double())


def test_parts_of_a_step(session, monkeypatch):
    """Of a preset as small as can be, which is no slice of anything."""
    case = session.plan.cases["mtp-parts-standard"]
    small = dataclasses.replace(case, subjects=("deepseek-v3-tiny",))
    session.plan.cases[case.name] = small
    shape = {"batches": [1, 3], "context": 8, "ep": 4, "ways": 1}
    monkeypatch.setattr(bench_mtp.parts.Source, "real", lambda self, module, most=None: [self.filled(module)])
    for impl in case.impls:
        found = run(session, case.name, f"deepseek-v3-tiny/{impl}", "test_parts", **shape)
        by = {(m.metric, m.convention): m for m in found}
        share = named.ep_share(4) if impl == named.EXPERTS else ""
        assert set(by) == {
            (metric, convention)
            for B in (1, 3)
            for metric, convention in (
                ("step_cost", named.two_over_one(B, 8, share)), ("byte_rate", named.step_of(1, B, 8, share)),
                ("byte_rate", named.step_of(2, B, 8, share)),
            )
        }  # fmt: skip
        (ratio,) = by["step_cost", named.two_over_one(3, 8, share)].samples
        one, two = (by["byte_rate", named.step_of(n, 3, 8, share)] for n in (1, 2))
        assert ratio == pytest.approx(one.samples[0] / two.samples[0])
        assert (one.clock, one.precision) == ("host", "float32")


def test_a_part_that_disagrees_is_not_timed(session, monkeypatch):
    case = session.plan.cases["mtp-parts-standard"]
    monkeypatch.setattr(bench_mtp.parts.Source, "real", lambda self, module, most=None: [self.filled(module)])
    monkeypatch.setattr(bench_mtp, "agree", lambda step: pytest.fail("two are not two ones"))
    monkeypatch.setattr(bench_mtp.part_times, "taken", lambda *given: pytest.fail("timed"))
    with pytest.raises(pytest.fail.Exception, match="two are not two ones"):
        run(session, case.name, f"deepseek-v3-tiny/{named.SHARED}", "test_parts", batches=[1], context=8)


def test_a_part_without_room_is_skipped(session, monkeypatch):
    case = session.plan.cases["mtp-parts-standard"]
    monkeypatch.setattr("v3bench.suite.mtp.part_source.free_memory", lambda device: 0)
    with pytest.raises(pytest.skip.Exception, match="of cpu memory"):
        run(session, case.name, f"deepseek-v3-tiny/{named.SHARED}", "test_parts", batches=[1], context=8)


def test_loads_with_and_without_the_bias(session):
    found = run(session, "mtp-balance-smoke", f"{V3}/module", "test_balance", first=2, **SHORT)
    layers = [(one.bias, one.layer) for one in (named.parse_balance(m.convention) for m in found)]
    assert layers == [(bias, layer) for bias in (True, False) for layer in (1, 2, 3)]  # the third is MTP's


def test_generation_in_turns(session):
    found = run(session, "mtp-speed-smoke", f"{V3}/float32", "test_speculation", new=6, prompt=4, context=12)
    by = {(m.metric, m.convention): m.samples for m in found}
    assert {metric for metric, _ in by} == {
        "tokens_per_second", "distinct_3grams", "tokens_per_step", "acceptance_rate", "step_cost", "speed_up",
        "parted_rows",
    }  # fmt: skip
    (bound,) = by["speed_up", "bound; batch 2"]
    assert bound == by["tokens_per_step", "mtp; 1 drafts; batch 2"][0]
    assert 1 <= bound <= 2
    plain, drafted = (by["tokens_per_second", c] for c in ("plain; batch 2", "mtp; 1 drafts; batch 2"))
    ratios = [b / a for a, b in zip(plain, drafted, strict=True)]
    assert by["speed_up", "measured; batch 2"] == pytest.approx(ratios)


def test_few_files_give_several_prompts_each(session):
    one = proxy.trained(session, session.plan.cases["mtp-learning-smoke"], V3)
    ids = bench_mtp.prompts_of(one, {"prompts": 99, "context": 12})
    assert ids.shape == (99, 13)
    assert len(ids.unique(dim=0)) > 80
    with pytest.raises(BadInput, match=r"\d prompts of 40000 tokens in held-out files; expected text for 9"):
        bench_mtp.prompts_of(one, {"prompts": 9, "context": 40_000})


def test_a_course_that_failed_is_not_tried_again(session, monkeypatch):
    monkeypatch.setattr(proxy, "FAILED", {})
    monkeypatch.setattr(proxy.checkpoint.Trainer, "trouble", lambda self: "the loss of step 1 is nan")
    case = session.plan.cases["mtp-learning-smoke"]
    with pytest.raises(ArithmeticError, match="training of mtp-v3 broke off: the loss of step 1 is nan"):
        proxy.trained(session, case, V3)
    monkeypatch.setattr(proxy, "train", lambda *args: pytest.fail("trained again"))
    with pytest.raises(ArithmeticError, match="broke off"):
        proxy.trained(session, case, V3)


def test_a_checkpoint_that_a_kill_left_half_written_is_written_again(session, monkeypatch):
    case = session.plan.cases["mtp-learning-smoke"]
    proxy.trained(session, case, V3)
    folder = session.plan.folder.path / proxy.FOLDER / "mtp-learning-smoke-mtp-v3"
    (folder / "config.json").unlink()
    monkeypatch.setattr(proxy, "KEPT", {})
    proxy.trained(session, case, V3)
    load_pretrained(folder)
