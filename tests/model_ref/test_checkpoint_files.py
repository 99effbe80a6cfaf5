"""Folders that cannot be opened: each refused in one line that names the file."""

from __future__ import annotations

import json
import os
import pickle

import pytest
from v3bench.model_ref import BadInput, load_pretrained

INDEX = "model.safetensors.index.json"
SECOND = "model-00002-of-00003.safetensors"


def refused(folder, *words):
    with pytest.raises(BadInput) as caught:
        load_pretrained(folder)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line


@pytest.fixture
def sharded(released):
    return released().write(shards=3)


def reindex(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_no_such_folder(tmp_path):
    refused(tmp_path / "nowhere", "nowhere/config.json", "cannot be read")


def test_a_folder_without_weights(released):
    folder = released().write()
    (folder / "model.safetensors").unlink()
    refused(folder, str(folder), "holds no weights", "model.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickle_is_refused_by_name_and_never_opened(released, name):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(folder / "exploded"),)

    folder = released().write()
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    refused(folder, name, "pickle file, which runs code when it is read", "safetensors")
    assert not (folder / "exploded").exists()


def test_an_index_of_pickle_files(sharded):
    reindex(sharded, lambda table: table.update({"model.norm.weight": "pytorch_model.bin"}))
    refused(sharded, INDEX, "pytorch_model.bin", "safetensors")


@pytest.mark.parametrize(
    "file", ["../outside.safetensors", "/etc/outside.safetensors", "sub/inside.safetensors", 3, None]
)
def test_an_index_that_points_elsewhere(sharded, file):
    reindex(sharded, lambda table: table.update({"model.norm.weight": file}))
    refused(sharded, INDEX, "'model.norm.weight'", "in the same folder")


def test_a_missing_shard(sharded):
    (sharded / SECOND).unlink()
    refused(sharded, INDEX, f"names {SECOND}, which is not there")


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_a_truncated_shard(sharded, kept):
    path = sharded / SECOND
    path.write_bytes(path.read_bytes()[:kept])
    refused(sharded, SECOND, "is cut off or no safetensors file")


def test_a_shard_that_is_something_else(sharded):
    (sharded / SECOND).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n" * 3)
    refused(sharded, SECOND, "is cut off or no safetensors file")


def test_shards_without_an_index(sharded):
    (sharded / INDEX).unlink()
    refused(sharded, str(sharded), "holds model-00001-of-00003.safetensors but no", INDEX)


def test_one_shard_of_several_without_an_index(sharded):
    (sharded / INDEX).unlink()
    (sharded / SECOND).unlink()
    (sharded / "model-00003-of-00003.safetensors").unlink()
    refused(sharded, "but no", INDEX)


@pytest.mark.parametrize("text", ["{", '{"weight_map": []}', '{"weight_map": {}}', "{}", '{"weight_map": {"a": 1'])
def test_a_broken_index(sharded, text):
    (sharded / INDEX).write_text(text)
    refused(sharded, INDEX)


def test_an_index_with_a_tensor_that_is_in_no_file(sharded):
    reindex(sharded, lambda table: table.update({"model.extra.weight": SECOND}))
    refused(sharded, INDEX, f"says that {SECOND} holds tensor 'model.extra.weight'")


def test_an_index_with_the_wrong_shard(sharded):
    def swap(table):
        name = next(name for name in table if table[name] == SECOND)
        table[name] = "model-00001-of-00003.safetensors"

    reindex(sharded, swap)
    refused(sharded, INDEX, "model-00001-of-00003.safetensors holds tensor")


def test_a_tensor_the_index_forgets(sharded):
    reindex(sharded, lambda table: table.pop("model.norm.weight"))
    refused(sharded, "-of-00003.safetensors", "'model.norm.weight'", f"is not named in {INDEX}")


def test_a_single_file_beside_an_index_of_others(sharded):
    (sharded / "model.safetensors").write_bytes((sharded / SECOND).read_bytes())
    refused(sharded, INDEX, "does not name the model.safetensors beside it")


def test_one_file_of_any_name_will_do(released):
    folder = released().write()
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    load_pretrained(folder)


def test_files_the_index_does_not_name_are_left_alone(sharded):
    (sharded / "consolidated.safetensors").write_bytes(b"not read")
    load_pretrained(sharded)


def test_linked_shards(sharded, tmp_path):
    """As in Hugging Face's cache, where every file is a link to a blob."""
    blob = tmp_path / "blob"
    (sharded / SECOND).rename(blob)
    (sharded / SECOND).symlink_to(blob)
    load_pretrained(sharded)
