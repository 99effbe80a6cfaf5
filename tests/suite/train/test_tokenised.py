"""Corpora in a tokenizer's tokens: the files and the split of the bytes, a hash of their own, each token's place."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from v3bench.model_ref.errors import BadInput
from v3bench.suite import tokens
from v3bench.suite.train import checkpoint, corpus, tokenised
from v3bench.suite.train.plan import Plan

from ..vocabularies import bpe, words

WIDE = "# h\u00e9 \u65e5 \U0001f600!\n"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A folder of text whose characters have one to four bytes; its file 0.py is held out."""
    path = tmp_path_factory.mktemp("wide")
    for n in range(6):
        (path / f"{n}.py").write_text(WIDE * (n + 1) + f"x = {n}\n")
    return path


@pytest.fixture
def of_bytes(wide, monkeypatch):
    """Its corpus, half of it held out."""
    monkeypatch.setattr(corpus, "HELD_OUT", 2)
    return corpus.of("wide", corpus.folder(wide))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The path of a tokenizer of 300 tokens that begins a text with <s>."""
    return bpe(tmp_path_factory.mktemp("tokenizer"), [WIDE, "x = 1"], size=300, start="<s>")


def test_the_same_files_come_back_from_their_tokens(of_bytes, tokenizer, monkeypatch):
    read = tokens.read(str(tokenizer))
    found = tokenised.tokenised(of_bytes, read)
    for side in (False, True):
        pairs = list(zip(found.files(held_out=side), of_bytes.files(held_out=side), strict=True))
        assert len(pairs) == 3
        for (source, ids), (other, data) in pairs:
            assert replace(source, tokens=source.size) == other
            assert len(ids) == source.tokens < source.size == other.tokens
            assert read.decode(ids.tolist()).encode() == bytes(data.tolist())
    ids = [tensor for _, tensor in found.files(held_out=True)]
    (first,) = read.start
    assert found.held_out.tolist() == [token for file in ids for token in (first, *file.tolist())]
    assert found.train.dtype == torch.int16
    monkeypatch.setattr(tokenised, "CHUNK", 1)  # a file at a time
    again = tokenised.tokenised(of_bytes, read)
    assert torch.equal(again.train, found.train)
    assert torch.equal(again.held_out, found.held_out)


def test_a_token_begins_with_its_first_byte(of_bytes, tokenizer):
    """By the tokens' own bytes, which a byte-level vocabulary spells out one character each."""
    read = tokens.read(str(tokenizer))
    encoding = tokenised.tokenised(of_bytes, read).encoding
    for source, data in of_bytes.files(held_out=True):
        raw, place, wanted = bytes(data.tolist()), 0, []
        for token in read.encode(raw.decode()):
            within = place
            while raw[within] & 0xC0 == 0x80:  # a token within a character stands for all of it
                within -= 1
            wanted.append(within)
            place += len(read.inner.id_to_token(token))
        assert place == len(raw)
        assert encoding.begins[source.sha256].tolist() == wanted
        assert torch.equal(encoding.texts[source.sha256], data)
    assert max(wanted) > len(raw.decode())  # in bytes, not in characters


def test_the_hash_tells_tokenizers_apart(of_bytes, tokenizer, tmp_path):
    other = bpe(tmp_path / "other", [WIDE], size=300, start="</s>")
    found = [tokenised.tokenised(of_bytes, tokens.read(str(path))) for path in (tokenizer, tokenizer, other)]
    assert found[0].sha256 == found[1].sha256
    assert len({of_bytes.sha256, *(one.sha256 for one in found)}) == 3
    read = found[0].encoding.tokens
    assert found[0].about == f"wide {found[0].sha256[:12]}, tokenizer {read.sha256[:12]}"
    assert of_bytes.about == f"wide {of_bytes.sha256[:12]}"
    listed = json.loads(json.dumps(found[0].as_json()))
    assert listed["tokenizer"] == {"sha256": read.sha256, "size": 300, "start": [0]}
    assert listed["columns"] == ["file", "sha256", "bytes", "held out", "tokens"]
    assert [row[:4] for row in listed["files"]] == of_bytes.as_json()["files"]
    assert [row[4] for row in listed["files"]] == [source.tokens for source in found[0].sources]


def test_a_tokenizer_that_loses_text_is_said_to(of_bytes, tmp_path):
    path = words(tmp_path, ["#", "x", "=", "<unk>"], unknown="<unk>")
    found = tokenised.tokenised(of_bytes, tokens.read(str(path)))
    assert found.train.dtype == torch.uint8
    assert found.about.endswith(" that loses text of 3 of 3 held-out files")


def test_a_file_without_tokens_is_named(of_bytes, tmp_path):
    vocabulary = tokens.read(str(words(tmp_path, ["x", "="])))
    with pytest.raises(BadInput, match=r"\w+\.py: cannot be tokenised \(WordLevel error"):
        tokenised.tokenised(of_bytes, vocabulary)


def test_bytes_are_the_same_corpus_and_a_plan_names_its_tokenizer(folder, small, plan):
    assert tokenised.load(str(folder)) is small
    assert list(small.as_json()) == ["name", "sha256", "columns", "files"]
    assert small.as_json()["columns"] == ["file", "sha256", "bytes", "held out"]
    other = replace(plan, tokenizer="there")
    assert Plan.from_json(other.as_json()) == other != plan


@pytest.fixture
def of_tokens(plan, tmp_path):
    """Eight steps on the tokens of a tokenizer."""
    path = bpe(tmp_path / "tokenizer", size=280)
    return replace(plan, tokenizer=str(path), change={**plan.change, "vocab_size": 280})


def test_training_on_tokens(of_tokens, plan):
    found = checkpoint.train(replace(of_tokens, steps=16, rate=6e-3, held_out=200))
    assert found.corpus != checkpoint.train(plan).corpus
    assert sum(found.losses[-4:]) < sum(found.losses[:4]) - 1


def test_a_tokenizer_that_does_not_match_the_vocabulary_is_refused(of_tokens):
    what = r"tokenizer.json for deepseek-v3-small: its largest token is 279; expected .* the model's vocab_size 279$"
    with pytest.raises(BadInput, match=what):
        checkpoint.train(replace(of_tokens, change={**of_tokens.change, "vocab_size": 279}))


def test_training_does_not_go_on_with_another_tokenizer(of_tokens, plan, tmp_path):
    path = tmp_path / "run.safetensors"
    checkpoint.trained(of_tokens, path=path)
    assert checkpoint.trained(of_tokens, path=path).done == 8
    with pytest.raises(BadInput, match="is of another plan"):
        checkpoint.trained(plan, path=path)
    edited = tokenised.tokenised(corpus.load(plan.corpus), tokens.read(str(bpe(tmp_path / "edited", special=["<a>"]))))
    with pytest.raises(BadInput, match="is of another corpus"):
        checkpoint.trained(of_tokens, path=path, corpus=edited)
