"""Copies of the ledger's folders that a test may spoil."""

import shutil

import pytest
from v3bench.suite.ledger import claims, derivations


@pytest.fixture
def spoiled(tmp_path):
    """spoiled("claims", "mtp.toml", old, new) -> a copy of the folder, one text replaced in one file."""

    def spoil(kind, name, old="", new=""):
        folder = tmp_path / kind
        shutil.copytree({"claims": claims, "derivations": derivations}[kind].FOLDER, folder)
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")
        return folder

    return spoil
