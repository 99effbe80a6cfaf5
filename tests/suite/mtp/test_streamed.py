"""A checkpoint measured layer by layer: its figures, what is saved on the way, and going on after a kill."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from v3bench.model_ref import BadInput, load_pretrained
from v3bench.suite import generated, models
from v3bench.suite.bench import bench_mtp
from v3bench.suite.ledger import cases, claims, evidence
from v3bench.suite.ledger.data import table
from v3bench.suite.meter import progress, scale
from v3bench.suite.meter.measure import ONCE
from v3bench.suite.meter.recorder import Recorder
from v3bench.suite.mtp import saved, streamed
from v3bench.suite.mtp.acceptance import scores
from v3bench.suite.mtp.conventions import parse_forced, parse_held_out
from v3bench.suite.tokens import Bytes
from v3bench.suite.train.corpus import of

SIZE = generated.Size(hidden_size=128, layers=4, dense=1, heads=2, experts=16, inner=64)
SMALL = {"q_lora_rank": 32, "kv_lora_rank": 32, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4}


@pytest.fixture
def folder(tmp_path):
    generated.write(tmp_path / "model", SIZE.config() | SMALL, shard=400_000)
    return tmp_path / "model"


@pytest.fixture
def text():
    ids = torch.randint(0, 256, (3, 25), generator=torch.Generator().manual_seed(2))
    return streamed.Text(ids, torch.full((3,), 24.0).double())


@pytest.fixture
def often(monkeypatch):
    """Saved behind every step."""
    monkeypatch.setattr(saved, "EVERY", 0.0)
    monkeypatch.setattr(saved, "SHARE", 0)


def figures(found):
    return found.loss, found.bits_per_byte, found.accepted, found.accurate


def test_figures_are_those_of_the_model_in_memory(folder, text):
    found = streamed.measure(folder, text)
    model = load_pretrained(folder)
    theirs = scores(model, text.ids, 1)
    assert found.accepted[0] == pytest.approx(theirs.accepted[:, 0].double().mean(1).tolist(), abs=1e-12)
    assert found.accurate[0] == pytest.approx(theirs.accurate[:, 0].double().mean(1).tolist(), abs=1e-12)
    with torch.no_grad():
        loss = [model.loss(one[None]).main.item() for one in text.ids]
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.bits_per_byte == pytest.approx([one / math.log(2) for one in loss], rel=1e-5)
    assert found.found == 0
    assert found.read > sum(path.stat().st_size for path in folder.glob("*.safetensors")) * 0.9


def test_without_mtp_tensors_the_loss_alone_is_measured(folder, text, tmp_path):
    raw = SIZE.config() | SMALL | {"num_nextn_predict_layers": 0}
    generated.write(tmp_path / "bare", raw)
    found = streamed.measure(tmp_path / "bare", text)
    assert found.accepted == found.accurate == []
    assert all(map(math.isfinite, found.loss))


def killed_behind(folder, text, work, steps):
    """A pass that ends after some steps, as a kill would end it."""

    class Killed(Exception):
        pass

    def say(line):
        if len(seen) == steps:
            raise Killed
        seen.append(line)

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "QUIET", -1.0)
        with pytest.raises(Killed):
            streamed.measure(folder, text, work=work, say=say)


@pytest.mark.parametrize("steps", [1, 3, 5, 6])
def test_goes_on_where_it_was(folder, text, tmp_path, often, steps):
    work, whole, lines = tmp_path / "work", streamed.measure(folder, text), []
    killed_behind(folder, text, work, steps)
    assert len(list(work.glob("states-*"))) == 1
    found = streamed.measure(folder, text, work=work, say=lines.append)
    assert found.found == steps
    assert figures(found) == figures(whole)
    assert found.read == whole.read
    assert "goes on behind" in lines[0]
    assert not work.exists()


CHILD = """
import sys, torch
from v3bench.suite.meter import progress
from v3bench.suite.mtp import saved, streamed
torch.set_num_threads(1)
saved.EVERY, saved.SHARE, progress.QUIET = 0.0, 0, -1.0
ids = torch.randint(0, 256, (3, 25), generator=torch.Generator().manual_seed(2))
text = streamed.Text(ids, torch.full((3,), 24.0).double())
from pathlib import Path
streamed.measure(sys.argv[1], text, work=Path(sys.argv[2]), say=lambda line: print(line, flush=True))
"""


def test_a_kill_at_any_moment_loses_no_more_than_a_step(folder, text, tmp_path):
    whole, work = streamed.measure(folder, text), tmp_path / "work"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(work)], stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(random.Random(os.getpid()).randint(1, 4)):
            assert child.stdout.readline()
        time.sleep(random.Random(os.getpid()).random() * 0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    found = streamed.measure(folder, text, work=work)
    assert figures(found) == figures(whole)


def test_states_of_other_weights_or_text_are_not_gone_on_with(folder, text, tmp_path, often):
    work = tmp_path / "work"
    killed_behind(folder, text, work, 3)
    account = json.loads((work / saved.ACCOUNT).read_text())
    assert account["done"] == 3
    assert account["step"] == "layers.1"
    lines = []
    other = streamed.Text(text.ids.flip(0), text.nbytes)
    assert streamed.measure(folder, other, work=work, say=lines.append).found == 0
    assert "other weights or another text; begun anew" in lines[0]
    killed_behind(folder, text, work, 3)
    os.utime(min(folder.glob("*.safetensors")))
    assert streamed.measure(folder, text, work=work).found == 0


def test_a_full_disk_keeps_the_states_before(folder, text, tmp_path, often, monkeypatch):
    work, whole, lines, written = tmp_path / "work", streamed.measure(folder, text), [], []
    put = saved.TensorFile.put

    def full(self, name, values):
        written.append(name)
        if len(written) > 7:  # within the third save
            raise OSError(28, "No space left on device")
        put(self, name, values)

    monkeypatch.setattr(saved.TensorFile, "put", full)
    found = streamed.measure(folder, text, work=work, say=lines.append)
    assert figures(found) == figures(whole)
    assert [line for line in lines if "states cannot be saved (No space left on device); goes on without" in line]
    monkeypatch.undo()
    assert [path.name for path in work.glob("states-*")] == ["states-002.safetensors"]
    again = streamed.measure(folder, text, work=work)
    assert again.found == 2
    assert figures(again) == figures(whole)


def test_states_that_cannot_be_read_are_one_line(folder, text, tmp_path, often):
    work = tmp_path / "work"
    killed_behind(folder, text, work, 2)
    (work / "states-002.safetensors").write_bytes(b"torn")
    with pytest.raises(BadInput, match=r"states-002.safetensors: cannot be read .*expected the states of a pass"):
        streamed.measure(folder, text, work=work)


def corpus_of(tmp_path, *texts):
    paths = []
    for n, one in enumerate(texts):
        path = tmp_path / f"{n}.txt"
        path.write_text(one)
        paths.append((path.name, path))
    made = of("texts", paths)
    everything = tuple(replace(source, held_out=True) for source in made.sources)
    raw = b"".join(texts[int(source.name[0])].encode() + b"\0" for source in everything)
    return replace(made, sources=everything, held_out=torch.tensor(list(raw), dtype=torch.uint8))


def test_windows_go_round_the_files_and_never_overlap(tmp_path):
    corpus = corpus_of(tmp_path, "abcdefghij", "klmnopqr", "st")
    found = streamed.text_of(corpus, Bytes(), 9, 3)
    assert ["".join(map(chr, row)) for row in found.ids.tolist()] == ["abcd", "klmn", "efgh", "opqr"]
    assert found.nbytes.tolist() == [3.0] * 4
    assert len(streamed.text_of(corpus, Bytes(), 2, 3).ids) == 2


class Words(Bytes):
    """Two letters a token, behind a first token."""

    start = (7,)

    def encode(self, text):
        return [ord(one) for one in text[::2]]


def test_bytes_are_those_of_the_predicted_tokens(tmp_path):
    found = streamed.text_of(corpus_of(tmp_path, "abcdefgh", "ijklmnop"), Words(), 9, 2)
    assert found.ids.tolist() == [[7, 97, 99], [7, 105, 107], [7, 101, 103], [7, 109, 111]]
    assert found.nbytes.tolist() == [4.0] * 4


def test_a_text_too_short_for_one_window_is_refused(tmp_path):
    with pytest.raises(BadInput, match="the longest of 2 held-out files has 8 tokens; expected at least 10"):
        streamed.text_of(corpus_of(tmp_path, "abcdefgh", "st"), Bytes(), 1, 9)


def records(folder, monkeypatch, tmp_path=None, length=24):
    case = cases.load()["mtp-released"]
    case = replace(case, shape=dict(case.shape) | {"windows": 3, "length": length})
    said = []
    plan = SimpleNamespace(device="cpu", launch="a", corpus=None, folder=None, resume=False, say=said.append)
    recorder = Recorder(SimpleNamespace(plan=plan), case, "checkpoint/module", None, ONCE)
    bench_mtp.test_released(recorder, case, "checkpoint/module", "cpu", folder and str(folder))
    assert {m.metric for m in recorder.pending} <= table("metrics").keys()
    return {m.metric: m for m in recorder.pending}, said


def test_the_benchmark_records_what_is_found(folder, monkeypatch):
    found, _ = records(folder, monkeypatch)
    assert found.keys() == {"bits_per_byte", "text_loss", "read_rate", "acceptance_rate", "draft_accuracy"}
    accepted = found["acceptance_rate"]
    assert (accepted.subject, accepted.scale, len(accepted.samples)) == ("checkpoint", "proxy", 3)
    forced = parse_forced(accepted.convention)
    assert (forced.draft, forced.temperature) == (1, 0.0)
    assert parse_forced(found["draft_accuracy"].convention).temperature is None
    assert parse_held_out(found["bits_per_byte"].convention).endswith("; model")


def test_the_released_model_decides_its_claims(folder, monkeypatch):
    """By its config, key by key, and its name: here the preset stands for the small one."""
    name = "DeepSeek-V3"
    assert scale.published(models.load("deepseek-v3")[1], name) == "deepseek-v3"
    assert scale.published(models.load("deepseek-v3")[1].replace(num_hidden_layers=60), name) is None
    assert scale.published(models.load(str(folder))[1], name) is None
    monkeypatch.setattr(bench_mtp, "published", lambda config, called: "deepseek-v3")
    monkeypatch.setattr(bench_mtp, "granted", lambda config: "full")
    found, _ = records(folder, monkeypatch)
    claim = claims.read("mtp-acceptance-isca")
    own = [row for entry in claim.evidence for row in evidence.rows(claim, entry, evidence.index(found.values()))]
    (row,) = [row for row in own if row.basis == "measured"]
    assert row.scale == "full"


def test_without_mtp_the_benchmark_says_so(tmp_path, monkeypatch):
    generated.write(tmp_path / "bare", SIZE.config() | SMALL | {"num_nextn_predict_layers": 0})
    found, said = records(tmp_path / "bare", monkeypatch)
    assert found.keys() == {"bits_per_byte", "text_loss", "read_rate"}
    assert "bare holds no MTP tensors: its loss is measured, and no acceptance" in said[-1]


def test_the_benchmark_without_a_checkpoint_is_skipped(monkeypatch):
    with pytest.raises(pytest.skip.Exception, match="no checkpoint given"):
        records(None, monkeypatch)


def test_the_benchmark_refuses_a_vocabulary_without_its_tokenizer(tmp_path, monkeypatch):
    generated.write(tmp_path / "wide", replace(SIZE, vocab_size=300).config() | SMALL)
    with pytest.raises(BadInput, match=r"no tokenizer.json, and vocab_size is 300"):
        records(tmp_path / "wide", monkeypatch)
    (tmp_path / "wide" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="cannot be read as a tokenizer"):
        records(tmp_path / "wide", monkeypatch)


def test_the_benchmark_refuses_a_length_that_no_file_has(folder, monkeypatch):
    with pytest.raises(BadInput, match="expected at least 100000001 for one window"):
        records(folder, monkeypatch, length=100_000_000)
