"""``v3bench generate``: what it prints with and without drafts, and what it refuses in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from v3bench.model_ref import load_pretrained
from v3bench.model_ref.generate import generate
from v3bench.suite import cli
from v3bench.suite.generation import Request, answer

from ..baselines.conftest import TINY as DENSE
from ..model_ref.conftest import Released, made

KEYS = ["tokens", "text", "proposed", "accepted", "acceptance_rate", "tokens_per_step", "seconds"]


def weights(checkpoint: Released) -> Released:
    """Weights with which texts vary and some drafts are good."""
    for name, tensor in checkpoint.tensors.items():
        if "norm" in name:
            tensor.fill_(1.0)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.mul_(0.005)
        elif name.endswith("eh_proj.weight"):
            D = tensor.shape[0]
            tensor.mul_(0.01).add_(torch.cat((torch.eye(D), torch.zeros(D, D)), dim=1))
    return checkpoint


def folder_of(path: Path, **changes: Any) -> Path:
    path.mkdir()
    return weights(made(path, vocab_size=256, **changes)).write()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepSeek checkpoint over bytes, with an MTP module."""
    return folder_of(tmp_path_factory.mktemp("generation") / "mtp", mtp=True)


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command, in this process: torch is imported already."""

    def ran(*args: str) -> Said:
        status = cli.main(["generate", *args])
        return Said(status, *capsys.readouterr())

    return ran


Run = Callable[..., Said]


def test_json_is_the_contract_and_drafts_change_no_token(folder: Path, run: Run) -> None:
    common = (str(folder), "--prompt", "héllo", "--max-new-tokens", "40", "--json")
    plain, fast = (json.loads(run(*common, *more).out) for more in ((), ("--mtp", "--drafts", "2")))
    assert list(plain) == list(fast) == KEYS
    assert (
        plain["tokens"] == fast["tokens"] == generate(load_pretrained(folder), [list("héllo".encode())], 40)[0].tokens
    )
    assert plain["text"] == bytes(plain["tokens"]).decode(errors="replace")
    assert (plain["proposed"], plain["accepted"], plain["acceptance_rate"]) == (0, 0, None)
    assert plain["tokens_per_step"] == 1.0
    assert 0 < fast["accepted"] < fast["proposed"]
    assert fast["acceptance_rate"] == fast["accepted"] / fast["proposed"]
    assert fast["tokens_per_step"] == 39 / (fast["proposed"] / 2)
    assert fast["seconds"] > 0


def test_text_is_streamed_and_the_rest_goes_to_standard_error(folder: Path, run: Run) -> None:
    done = run(str(folder), "--prompt", "ab", "--max-new-tokens", "30", "--mtp")
    assert done.status == 0, done.err
    made = json.loads(run(str(folder), "--prompt", "ab", "--max-new-tokens", "30", "--mtp", "--json").out)
    assert done.out == made["text"] + "\n"
    (line,) = done.err.splitlines()
    assert line.startswith("v3bench: 30 tokens in ")
    assert f"{made['accepted']} of {made['proposed']} drafts accepted" in line


def test_pieces_are_whole_characters_that_make_up_the_text(folder: Path) -> None:
    pieces: list[str] = []

    def put(text: str) -> bool:
        pieces.append(text)
        return True

    found = answer(Request(checkpoint=str(folder), prompt="x", max_new_tokens=60, drafts=1), "cpu", put)
    assert found is not None
    assert "".join(pieces) == found.text
    assert len(pieces) > 20


def test_sampling_follows_its_seed(folder: Path) -> None:
    def sampled(seed: int, drafts: int) -> list[int]:
        request = Request(
            checkpoint=str(folder), prompt="x", max_new_tokens=20, drafts=drafts, temperature=2.0, seed=seed
        )
        found = answer(request, "cpu", lambda text: True)
        assert found is not None
        return found.generated.tokens

    for drafts in (0, 1):
        assert sampled(1, drafts) == sampled(1, drafts) != sampled(2, drafts)


def test_tokens_of_a_file_need_no_tokenizer(tmp_path: Path, run: Run) -> None:
    checkpoint = weights(made(tmp_path)).write()
    file = tmp_path / "tokens.json"
    for held in ([5, 6, 7], {"tokens": [5, 6, 7]}):
        file.write_text(json.dumps(held))
        done = json.loads(run(str(checkpoint), "--tokens", str(file), "--max-new-tokens", "5", "--json").out)
        assert done["text"] is None
        assert done["tokens"] == generate(load_pretrained(checkpoint), [[5, 6, 7]], 5)[0].tokens
    shown = run(str(checkpoint), "--tokens", str(file), "--max-new-tokens", "5")
    assert shown.out.split() == [str(token) for token in done["tokens"]]


def test_the_token_that_ends_a_text_is_kept_among_the_tokens_only(folder: Path, tmp_path: Path) -> None:
    free = generate(load_pretrained(folder), [[120]], 20)[0].tokens
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [free[7]]}))
    found = answer(Request(checkpoint=str(tmp_path), prompt="x", drafts=1), "cpu", lambda text: True)
    assert found is not None
    end = free.index(free[7])
    assert found.generated.tokens == free[: end + 1]
    assert found.text == bytes(free[:end]).decode(errors="replace")


def test_dense_checkpoints_generate_too(tmp_path: Path, run: Run) -> None:
    import transformers

    config = transformers.LlamaConfig(**DENSE | {"vocab_size": 256, "eos_token_id": None, "bos_token_id": None})
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    done = json.loads(run(str(tmp_path), "--prompt", "abc", "--max-new-tokens", "12", "--json").out)
    want = theirs.generate(torch.tensor([[97, 98, 99]]), max_new_tokens=12, do_sample=False)
    assert done["tokens"] == want[0, 3:].tolist()
    refused(run, str(tmp_path), "--prompt", "abc", "--mtp", words="is a dense model, which has no MTP modules")


def test_a_reader_that_leaves_ends_it(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "v3bench", "generate", str(folder), "--prompt", "x", "--max-new-tokens", "100000"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "args, words",
    [
        (("--prompt", ""), "--prompt: the prompt is empty; expected some text"),
        (("--prompt", "x", "--max-new-tokens", "0"), "--max-new-tokens is 0; expected a positive number"),
        (("--prompt", "x", "--drafts", "2"), "--drafts is given without --mtp"),
        (("--prompt", "x", "--mtp", "--drafts", "0"), "--drafts is 0; expected a positive number"),
        (("--prompt", "x", "--temperature", "-1"), "temperature is -1.0"),
        (("--prompt", "x", "--seed", "-1"), "seed is -1"),
        (("--prompt", "x", "--tokens", "y"), "not allowed with argument --prompt"),
        ((), "one of the arguments --prompt --tokens is required"),
        (("--tokens", "no-such-file"), "no-such-file: cannot be read (No such file or directory)"),
        (("--tokens", "{list}"), "list: holds 256; expected a JSON list of tokens from 0 to 255"),
        (("--tokens", "{empty}"), "empty: the prompt is empty"),
        (("--tokens", "{text}"), "text: is not JSON"),
        (("--tokens", "{table}"), "table: holds no list of tokens"),
        (("--tokens", "{flag}"), "flag: holds true; expected"),
    ],
)
def test_wrong_usage_is_one_line(run: Run, folder: Path, tmp_path: Path, args: tuple[str, ...], words: str) -> None:
    files = {"list": "[1, 256]", "empty": "[]", "text": "abc", "table": "{}", "flag": "[true]"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    refused(run, str(folder), *(arg.format(**{name: tmp_path / name for name in files}) for arg in args), words=words)


def refused(run: Run, *args: str, words: str) -> None:
    done = run(*args)
    assert (done.status, done.out) == (2, ""), done.err
    (line,) = done.err.splitlines()
    assert words in line


def test_wrong_checkpoints_are_one_line(run: Run, tmp_path: Path) -> None:
    refused(run, "no-such-folder", "--prompt", "x", words="no-such-folder: is no folder; expected")
    refused(run, "deepseek-v3", "--prompt", "x", words="deepseek-v3: is no folder; expected")
    refused(run, str(tmp_path), "--prompt", "x", words="holds no config.json")
    bare = folder_of(tmp_path / "bare")
    refused(
        run, str(bare), "--prompt", "x", "--mtp", words="bare: holds no MTP tensors; expected a checkpoint with them"
    )
    assert run(str(bare), "--prompt", "x", "--max-new-tokens", "2").status == 0
    some = made(tmp_path / "some", mtp=True, vocab_size=256)
    some.folder.mkdir()
    del some.tensors["model.layers.2.eh_proj.weight"]
    refused(run, str(some.write()), "--prompt", "x", "--mtp", words="model.layers.2.eh_proj.weight")
    words = made(tmp_path / "words")
    words.folder.mkdir()
    refused(run, str(words.write()), "--prompt", "x", words="no tokenizer.json, and vocab_size is 37; expected")
    (words.folder / "tokenizer.json").write_text("{}")
    refused(run, str(words.folder), "--prompt", "x", words="tokenizer.json: cannot be read as a tokenizer")
