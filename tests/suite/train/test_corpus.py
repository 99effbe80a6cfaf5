"""The corpus: split by file, one epoch at most, a hash that tells corpora apart."""

import hashlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from v3bench.model_ref.errors import BadInput
from v3bench.suite.train import corpus
from v3bench.suite.train.corpus import Batches


def test_split_by_file(small, text):
    held = [source for source in small.sources if source.held_out]
    assert len(small.sources) == len(text)
    assert len(held) == len(text) // corpus.HELD_OUT
    assert bytes(small.held_out.tolist()) == b"".join(text[source.name] + b"\0" for source in held)
    rest = b"".join(text[source.name] + b"\0" for source in small.sources if not source.held_out)
    assert bytes(small.train.tolist()) == rest
    assert all(hashlib.sha256(text[s.name]).hexdigest() == s.sha256 for s in small.sources)
    assert small.as_json()["sha256"] == small.sha256


def test_hash_follows_contents_and_names(tmp_path, text):
    def of(texts):
        for old in tmp_path.iterdir():
            old.unlink()
        for name, data in texts.items():
            (tmp_path / name).write_bytes(data)
        return corpus.of("c", corpus.folder(tmp_path)).sha256

    first = of(text)
    assert of(text) == first
    assert of(text | {"f00.txt": b"other"}) != first
    assert of(text | {"more": b"other"}) != first


def test_the_same_text_is_never_on_both_sides(tmp_path):
    for n in range(60):
        (tmp_path / f"{n}.py").write_text(f"x = {n % 30}\n")
    found = corpus.of("c", corpus.folder(tmp_path))
    assert len(found.sources) == 30
    assert len({source.sha256 for source in found.sources}) == 30


def test_what_is_no_text_is_left_out(tmp_path, text):
    for name, data in text.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "picture").write_bytes(b"\xff\xd8\x00")
    (tmp_path / "zeros").write_bytes(b"a\0b")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "note").write_text("x")
    assert len(corpus.of("c", corpus.folder(tmp_path)).sources) == len(text)


def test_bad_folders(tmp_path):
    with pytest.raises(BadInput, match="is no folder"):
        corpus.load(str(tmp_path / "none"))
    (tmp_path / "one").write_text("one")
    with pytest.raises(BadInput, match="holds 1 files of text"):
        corpus.load(str(tmp_path))


def test_a_folder_is_named_by_its_last_part(folder):
    """Records have a corpus's name, and no place of the machine."""
    assert corpus.load(str(folder)).name == folder.name


def test_standard_library():
    found = corpus.load("stdlib")
    names = [source.name for source in found.sources]
    assert "stdlib/json/decoder.py" in names
    assert not any("/test/" in name or "/encodings/" in name or "site-packages" in name for name in names)
    assert len(found.train) > 5_000_000
    assert 0.01 < len(found.held_out) / len(found.train) < 0.2


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(size=st.integers(0, 400), batch=st.integers(1, 5), length=st.integers(1, 9), seed=st.integers(0, 3))
def test_an_epoch_predicts_no_token_twice(size, batch, length, seed):
    tokens = torch.arange(size) % 251
    batches = Batches(torch.arange(size), batch, length, seed)
    seen = [ids for step in range(len(batches)) for ids in batches[step]]
    assert len(batches) == max(size - 1, 0) // length // batch
    assert all((ids[1:] - ids[:-1] == 1).all() and len(ids) == length + 1 for ids in seen)
    predicted = torch.cat([ids[1:] for ids in seen]) if seen else torch.empty(0)
    assert len(predicted.unique()) == len(predicted)
    again = Batches(tokens, batch, length, seed)
    for step in range(len(batches)):  # any step, without those before
        assert torch.equal(again[step], batches[step] % 251)


def test_order_follows_the_seed():
    tokens = torch.arange(1000)
    one, other = Batches(tokens, 4, 8, 1), Batches(tokens, 4, 8, 2)
    assert not torch.equal(one[0], other[0])


def test_never_more_than_one_epoch():
    batches = Batches(torch.arange(1000), 4, 8, 1)
    batches.need(len(batches), "c")
    with pytest.raises(
        BadInput, match="corpus c: 32 steps of 4 x 8 tokens are more than one epoch; expected at most 31"
    ):
        batches.need(len(batches) + 1, "c")
    with pytest.raises(IndexError):
        batches[len(batches)]
