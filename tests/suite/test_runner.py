"""v3bench run: its arguments, its words, its independence of the user's own settings."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite import models, runner
from v3bench.suite.mtp import ngram
from v3bench.suite.run_folder import load_run

from .vocabularies import bpe


def test_a_benchmark_that_cannot_be_imported_is_a_failure_in_words(child, quick):
    child.write(child.table("a") + child.table("b", area="kv_cache"), tpot="import no_such_module\n", kv_cache=quick)
    done = child.start()
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr
    found = [(m.case, m.subject, m.status) for m in load_run(child.out).measurements if m.convention != "two"]
    assert sorted(found) == [("a", "s", "failed"), ("a", "t", "failed"), ("b", "s", "ok"), ("b", "t", "ok")]


def test_areas_without_benchmarks_and_progress_are_said(child, quick):
    child.write(child.table("a") + child.table("b", area="kv_cache"), tpot=quick, kv_cache=quick)
    done = child.start()
    assert "no benchmark yet: model, flops, fp8" in done.stderr
    assert re.search(r"\[1/2\] kv_cache b \(0:0\d so far\)", done.stderr)
    assert re.search(r"\[2/2\] tpot a \(0:0\d so far\)", done.stderr)


def test_a_reader_that_goes_away_does_not_end_the_run(child, quick):
    child.write(child.table("a", "b"), tpot=quick)
    process = subprocess.Popen(child.command(), stderr=subprocess.PIPE, text=True)
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert len(load_run(child.out).measurements) == 8


def test_an_internal_error_of_pytest_is_said(child, quick):
    child.write(child.table("a"), tpot=quick)
    (child.bench / "conftest.py").write_text("def pytest_runtest_logfinish():\n    raise OSError('odd')\n")
    done = child.start()
    assert done.returncode == 1
    assert "pytest broke internally: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "odd" in (child.out / "pytest.log").read_text()


def test_a_profile_runs_its_own_cases_only(child, quick):
    child.write(child.table("a"), tpot=quick)
    done = child.start(profile="full")
    assert done.returncode == 0
    assert load_run(child.out).measurements == ()


def test_the_users_pytest_settings_change_nothing(child, quick):
    child.write(child.table("a"), tpot=quick)
    (child.path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (child.path / "conftest.py").write_text("raise RuntimeError('not mine')\n")
    environment = {**os.environ, "PYTEST_ADDOPTS": "--benchmark-disable", "PYTEST_PLUGINS": "no_such_plugin"}
    done = child.start(env=environment)
    assert done.returncode == 0, done.stderr
    assert len(load_run(child.out).measurements) == 4


@pytest.mark.parametrize(
    "arguments, what",
    [
        ({"profile": "fast"}, "--profile: unknown profile 'fast'; expected one of smoke, quick, standard, full"),
        ({"only": ("tpot", "kv")}, "--only: unknown area 'kv'; expected one of model, kv_cache"),
        ({"device": "tpu"}, "--device: unknown device 'tpu'; expected cpu or cuda"),
        ({"checkpoint": "nowhere"}, "nowhere: holds no config.json"),
        ({"corpus": "nowhere"}, "--corpus nowhere: is no folder; expected a folder of text"),
        ({"tokenizer": "nowhere"}, "nowhere: cannot be read (No such file or directory); expected a tokenizer.json"),
        ({"tokenizer": "", "only": ("mtp",)}, "tokenizer.json: cannot be read (No such file or directory)"),
        ({"tokenizer": "nowhere", "only": ("fp8",)}, "--tokenizer: mtp is not among the areas to run; expected --only"),
        ({"out": ""}, "--out: is empty; expected a folder to write"),
        ({"out": "nowhere", "resume": True}, "nowhere: holds no run to go on with"),
        ({"resume": True}, "--resume: runs/ holds no quick run on cpu"),
        ({"out": "/proc/run"}, "/proc/run: cannot be written"),
    ],
)
def test_wrong_usage_is_one_line_before_anything_is_written(tmp_path, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=re.escape(what)) as error:
        runner.run(**{"device": "cpu", **arguments})
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "config, what",
    [
        ("{", "line 1 is not JSON"),
        ('{"model_type": "gpt2"}', "model_type 'gpt2' is not understood; expected deepseek_v3 or"),
        (
            '{"model_type": "llama", "hidden_sise": 8}',
            "key 'hidden_sise' = 8 is not understood for llama; expected 'hid",
        ),
    ],
)
def test_a_checkpoint_that_is_not_understood_is_refused_at_once(tmp_path, config, what):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(BadInput, match=re.escape(what)) as error:
        runner.run(device="cpu", out=tmp_path / "run", checkpoint=tmp_path)
    assert str(tmp_path / "config.json") in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["corpus", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_two_folders_given_do_not_share_a_run(tmp_path, kind):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        shutil.copy(models.presets()["llama-tiny"], folder / "config.json")
    options = {"profile": "smoke", "only": ["kv_cache"], "device": "cpu", "out": tmp_path / "run"}
    runner.run(**options)
    for _ in range(2):
        runner.run(**options, **{kind: folders[0]})
    with pytest.raises(BadInput, match=f"was measured with {kind} one; this is two; expected another --out"):
        runner.run(**options, **{kind: folders[1]})
    assert len(load_run(tmp_path / "run").info["segments"]) == 3


@pytest.mark.parametrize(
    "content, what",
    [
        ("", "cannot be read as a tokenizer"),
        ("{}", "cannot be read as a tokenizer"),
        (None, "has 280 tokens; expected at most 279: so many words an n-gram model is made of"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused_at_once(tmp_path, monkeypatch, content, what):
    monkeypatch.setattr(ngram, "MOST", 279)
    path = bpe(tmp_path)
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=re.escape(what)) as error:
        runner.run(device="cpu", only=["mtp"], out=tmp_path / "run", tokenizer=tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_two_tokenizers_do_not_share_a_run(tmp_path):
    one, other = (bpe(tmp_path / name, special=[name]) for name in ("one", "two"))
    options = {"profile": "smoke", "device": "cpu", "out": tmp_path / "run", "bench": tmp_path}  # no benchmark is there
    runner.run(**options, only=["tpot"])
    runner.run(**options, only=["mtp"], tokenizer=one)
    runner.run(**options, only=["mtp"], tokenizer=one.parent)
    runner.run(**options, only=["tpot"])
    told = f"tokenizer.json@{hashlib.sha256(one.read_bytes()).hexdigest()[:12]}"
    with pytest.raises(BadInput, match=f"was measured with tokenizer {told}; this is tokenizer.json@.*another --out"):
        runner.run(**options, only=["mtp"], tokenizer=other)
    with pytest.raises(BadInput, match=f"was measured with tokenizer {told}; this is none"):
        runner.run(**options, only=["mtp"])
    commands = [segment["command"] for segment in load_run(tmp_path / "run").info["segments"]]
    assert [command.endswith(f"--only mtp --tokenizer {told}") for command in commands] == [False, True, True, False]
    runner.run(**options | {"out": tmp_path / "bytes"}, only=["mtp"])
    with pytest.raises(BadInput, match=f"was measured with tokenizer none; this is {told}"):
        runner.run(**options | {"out": tmp_path / "bytes"}, only=["mtp"], tokenizer=one)


REFUSING = """
from v3bench.model_ref.errors import BadInput

def test_value(record, case, series):
    record([1.0])
    if case.name == "a":
        raise BadInput("holds NaN", where="file, tensor 'x'", right="finite weights")
"""


def test_input_that_cannot_be_used_is_one_line_and_status_2(child):
    child.write(child.table("a", "b"), tpot=REFUSING)
    done = child.start()
    assert done.returncode == 2
    line = "file, tensor 'x': holds NaN; expected finite weights"
    assert done.stderr.count(f"    failed: {line}\n") == 2
    assert "2 measured, 0 skipped, 2 failed" in done.stderr
    assert not (child.out / "pytest.log").exists()
    assert {(m.case, m.status, m.why) for m in load_run(child.out).measurements} == {
        ("a", "failed", line),
        ("b", "ok", ""),
    }


def test_default_folders_do_not_run_into_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = runner.chosen_folder(None, "cpu", "smoke", resume=False)
    assert re.fullmatch(r"runs/\d{4}-\d\d-\d\d-cpu-smoke", str(first))
    first.mkdir(parents=True)
    second = runner.chosen_folder(None, "cpu", "smoke", resume=False)
    assert second == Path(f"{first}-2")
    (first / "run.json").write_text("{}")
    assert runner.chosen_folder(None, "cpu", "smoke", resume=True) == first


def test_the_command_names_no_path_of_the_machine(tmp_path):
    for name in ("checkpoint", "text"):
        (tmp_path / name).mkdir()
    shutil.copy(models.presets()["llama-tiny"], tmp_path / "checkpoint" / "config.json")
    given = {"--checkpoint": runner.checked_checkpoint(tmp_path / "checkpoint")}
    given["--corpus"] = runner.checked_corpus(tmp_path / "text")
    words = runner.command_line("quick", ("tpot", "mtp"), "cpu", True, given)
    told = "--only tpot,mtp --resume --checkpoint checkpoint --corpus text"
    assert words == f"v3bench run --profile quick --device cpu {told}"
    words = runner.command_line("full", ("kernels",), "cuda", False, {}, ("gemm=mine:f", "route=mine:g"))
    assert words.endswith("--only kernels --impl gemm=mine:f --impl route=mine:g")
