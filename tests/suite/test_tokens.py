"""Text to tokens and back: bytes, a checkpoint's own tokenizer, and no character cut in a stream."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from v3bench.model_ref.errors import BadInput
from v3bench.suite import tokens
from v3bench.suite.tokens import Bytes, Stream, Tokens

from .vocabularies import bpe, words

TEXT = "héllo wörld: 日本語 😀 naïve"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 280 tokens, two of them special, trained on a few words."""
    return bpe(tmp_path_factory.mktemp("tokenizer"), [TEXT, "def f(x): return x"]).parent


def streamed(vocabulary: Tokens, ids: list[int], step: int) -> list[str]:
    """What a stream gives, ``step`` tokens at a time."""
    stream = Stream(vocabulary)
    return [*(stream.feed(ids[i : i + step]) for i in range(0, len(ids), step)), stream.end()]


@given(st.text())
def test_bytes_come_back_as_the_text(text: str) -> None:
    assert Bytes().encode(text) == list(text.encode())
    assert Bytes().decode(Bytes().encode(text)) == text


@given(st.binary(), st.integers(1, 4))
def test_a_stream_of_any_bytes_is_their_text(data: bytes, step: int) -> None:
    assert "".join(streamed(Bytes(), list(data), step)) == data.decode(errors="replace")


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_stream_cuts_no_character(folder: Path, step: int) -> None:
    for vocabulary in (Bytes(), tokens.of_folder(folder, 300)):
        pieces = streamed(vocabulary, vocabulary.encode(TEXT), step)
        assert "".join(pieces) == TEXT
        assert not any("\ufffd" in piece for piece in pieces)
        assert sum(bool(piece) for piece in pieces) > 5


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    assert streamed(Bytes(), list("aé".encode())[:2], 1) == ["a", "", "\ufffd"]


def test_a_checkpoints_own_tokenizer_is_used(folder: Path) -> None:
    vocabulary = tokens.of_folder(folder, 320)
    assert vocabulary.size == 280
    assert vocabulary.decode(vocabulary.encode(TEXT)) == TEXT
    assert len(vocabulary.encode(TEXT)) < len(TEXT.encode())
    assert vocabulary.start == ()
    assert vocabulary.decode([0, *vocabulary.encode("x"), 1]) == "<s>x</s>"


def test_the_token_before_a_text_is_the_checkpoints(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    settings = {"add_bos_token": True, "bos_token": {"content": "<s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    vocabulary = tokens.of_folder(tmp_path, 300)
    assert vocabulary.start == (0,)
    assert json.loads(vocabulary.files["tokenizer_config.json"]) == {"add_bos_token": True, "bos_token": "<s>"}
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.post_processor = processors.TemplateProcessing(single="</s> $A <s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    made.save(str(tmp_path / "tokenizer.json"))
    assert tokens.of_folder(tmp_path, 300).start == (1,)
    assert tokens.of_folder(tmp_path, 300).encode("x") == made.encode("x").ids[1:-1]


def test_bytes_stand_in_where_the_vocabulary_is_theirs(tmp_path: Path) -> None:
    assert isinstance(tokens.of_folder(tmp_path, 256), Bytes)
    with pytest.raises(BadInput, match=r"no tokenizer.json, and vocab_size is 37; expected tokenizer.json beside"):
        tokens.of_folder(tmp_path, 37)


def test_refuses_a_tokenizer_that_does_not_match(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"tokenizer.json: its largest token is 279; expected .* vocab_size 279$"):
        tokens.of_folder(folder, 279)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"tokenizer.json: cannot be read as a tokenizer") as caught:
        tokens.of_folder(tmp_path, 300)
    assert "\n" not in str(caught.value)


def test_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BadInput, match=r"needs the package tokenizers, which is not installed; expected pip install"):
        tokens.of_folder(folder, 300)


def test_what_is_no_text_is_refused(folder: Path) -> None:
    assert Bytes().encode("a\udcff") == [97, 255]  # as a command line hands over a byte that is no UTF-8
    with pytest.raises(BadInput, match="text: holds"):
        Bytes().encode("\ud800")
    with pytest.raises(BadInput, match="is no Unicode text"):
        tokens.of_folder(folder, 300).encode("\ud800")


def test_a_tokenizer_is_read_by_its_file_or_its_folder(folder: Path, tmp_path: Path) -> None:
    path = folder / "tokenizer.json"
    assert tokens.read(str(path)) is tokens.read(str(path))
    assert tokens.read(str(folder)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert tokens.read(str(path)).files == {"tokenizer.json": path.read_bytes()}
    with pytest.raises(BadInput, match=r"none: cannot be read \(No such file or directory\); expected a tokenizer"):
        tokens.read(str(tmp_path / "none"))
    with pytest.raises(BadInput, match=r"tokenizer.json: holds no tokens; expected a file that the package tokenizers"):
        tokens.read(str(words(tmp_path, [])))


def test_many_texts_at_once_with_the_place_of_each_token(tmp_path: Path) -> None:
    vocabulary, texts = tokens.read(str(bpe(tmp_path, ["a return"]))), [TEXT, "", "a return return"]
    found = vocabulary.encode_batch(texts)
    assert [one.ids for one in found] == [vocabulary.encode(text) for text in texts]
    assert found[2].offsets == [(0, 1), (1, 8), (8, 15)]  # the blank that a token begins with is part of it


def test_lengths_that_a_tokenizer_names_cut_nothing(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.enable_truncation(3)
    made.enable_padding(direction="left", length=99)
    made.save(str(tmp_path / "tokenizer.json"))
    assert len(made.encode(TEXT).ids) == 99
    vocabulary = tokens.read(str(tmp_path))
    assert vocabulary.start == ()
    whole = tokens.read(str(folder)).encode(TEXT)
    assert vocabulary.encode(TEXT) == vocabulary.encode_batch([TEXT, "x"])[0].ids == whole


def test_text_without_tokens_is_one_line(tmp_path: Path) -> None:
    vocabulary = tokens.read(str(words(tmp_path, ["some", "words"])))
    assert vocabulary.encode("words some") == [1, 0]
    for tried in (vocabulary.encode, lambda text: vocabulary.encode_batch([text])):
        with pytest.raises(BadInput, match=r"text: cannot be tokenised \(WordLevel error: .*expected text that the"):
            tried("other words")
