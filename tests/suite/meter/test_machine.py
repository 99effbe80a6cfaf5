"""What ran a benchmark: stable facts, the code's own commit, no more memory than a container has."""

from __future__ import annotations

import json
import platform
import subprocess
from types import SimpleNamespace

import pytest
import torch
from v3bench.suite.meter import machine
from v3bench.suite.run_info import check_info


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit that machine.py takes for its own; git within it as a function."""

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        )

    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "a.py").write_text("a = 1\n")
    (tmp_path / ".gitignore").write_text("__pycache__\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    machine.revision.cache_clear()
    yield SimpleNamespace(path=tmp_path, head=git("rev-parse", "HEAD").stdout.strip())
    machine.revision.cache_clear()


def test_a_clean_checkout_names_its_commit(checkout):
    assert machine.revision() == (checkout.head, False)


@pytest.mark.parametrize("name, dirty", [("suite/a.py", True), ("suite/new.py", True), ("notes.md", False)])
def test_only_code_makes_it_dirty(checkout, name, dirty):
    (checkout.path / name).write_text("b = 2\n")
    assert machine.revision() == (checkout.head, dirty)


def test_an_installation_inside_a_checkout_is_not_that_commit(checkout, monkeypatch):
    inside = checkout.path / ".venv" / "v3bench"
    inside.mkdir(parents=True)
    monkeypatch.setattr(machine, "ROOT", inside)
    assert machine.revision() == (None, False)


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert machine.revision() == (None, False)


def test_facts_are_stable_json_without_host_name():
    facts = machine.describe("cpu")
    assert machine.describe("cpu") == facts
    assert json.loads(json.dumps(facts)) == facts
    assert platform.node() not in [facts["platform"], facts["cpu"]["model"]]
    assert facts["packages"]["torch"]


def test_a_containers_limit_is_the_memory(monkeypatch):
    total, available = machine.memory()
    assert 0 < available <= total
    limits = {"memory.max": 3 << 30, "memory.current": 1 << 30}
    monkeypatch.setattr(machine, "cgroup", limits.get)
    assert machine.memory() == (3 << 30, min(2 << 30, available))


def test_shortage_names_the_figures():
    assert machine.shortage(4 << 30, 6 << 30, "cpu") == ""
    assert machine.shortage(5 << 30, 6 << 30, "cpu") == ""
    why = machine.shortage((5 << 30) + 1, 6 << 30, "cpu")
    assert why == "needs 5.4 GB of cpu memory and 1.1 GB spare; 6.4 GB are available"


def test_the_device_is_named_by_gpu_or_by_cpu():
    facts = {"device": "cpu", "cpu": {"model": "A", "cores": 2}, "gpus": [{"name": "H"}, {"name": "H"}]}
    assert machine.device_name(facts) == "A, 2 cores"
    assert machine.device_name({**facts, "device": "cuda"}) == "H, H"


def test_what_only_torch_tells_stands_beside_what_nvml_tells(monkeypatch):
    properties = SimpleNamespace(uuid="aa-bb", multi_processor_count=132, L2_cache_size=50 << 20)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    card = {"name": "H", "memory_bytes": 1, "capability": "9.0"}
    found = {"gpus": [{**card, "uuid": "GPU-aa-bb"}, {**card, "uuid": "GPU-cc-dd"}], "driver": "1"}
    machine.torch_gpus.cache_clear()
    try:
        on_gpu = machine.with_torch(found, "cuda")
    finally:
        machine.torch_gpus.cache_clear()
    assert on_gpu["gpus"] == [{**card, "sms": 132, "l2_bytes": 50 << 20}, {**card, "sms": None, "l2_bytes": None}]
    assert machine.with_torch(found, "cpu")["gpus"][0] == {**card, "sms": None, "l2_bytes": None}
    described = {**machine.describe("cpu"), **on_gpu, "schema": 1, "segments": []}
    assert check_info(described, "here") == described
    assert not any(word in json.dumps(on_gpu) for word in ("clock", "power", "temperature", "GPU-"))


def test_the_cuda_version_is_among_the_packages(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert machine.packages()["cuda"] == "13.0"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "cuda" not in machine.packages()


def test_the_last_cache_is_the_largest(monkeypatch, tmp_path):
    for number, size in enumerate(("32K", "512K", "16M", "odd")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(size + "\n")
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path)
    assert machine.last_cache() == 16 << 20
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / "none")
    assert machine.last_cache() == 32 << 20
