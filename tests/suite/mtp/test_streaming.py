"""Reading beside computing: the generated checkpoint, the page cache, memory; at full size in the slow set."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch
from v3bench.model_ref import load_pretrained
from v3bench.model_ref.stream_weights import Source
from v3bench.suite import generated, models
from v3bench.suite.laws.streaming import H200, Rates, estimate, steps
from v3bench.suite.ledger import cases
from v3bench.suite.meter.anonymous import Peak
from v3bench.suite.meter.page_cache import cached, evict
from v3bench.suite.mtp import streaming

SIZE = generated.Size(hidden_size=256, layers=4, dense=1, heads=2, experts=16, inner=128)


def test_a_generated_checkpoint_loads_and_has_no_wild_values(tmp_path):
    size = generated.write(tmp_path, SIZE.config(), shard=1 << 20)
    stored = sum(path.stat().st_size for path in streaming.files(tmp_path))
    assert 0 <= stored - size < 0.1 * size
    assert len(streaming.files(tmp_path)) > 3
    model = load_pretrained(tmp_path)
    with torch.no_grad():
        logits = model(torch.arange(20)[None])
    assert 0.01 < logits.std() < 100
    again = generated.write(tmp_path / "again", SIZE.config(), shard=1 << 20)
    assert again == size
    for path in streaming.files(tmp_path):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_the_law_counts_the_bytes_that_are_read(tmp_path):
    generated.write(tmp_path, SIZE.config())
    with Source(tmp_path) as source:
        read = [source.bytes(step) for step in source.steps if step != "norm"]
    law = [step.bytes for step in steps(models.load(str(tmp_path))[1], 1, 8)]
    # The last blocks of a matrix are counted as whole ones by the files, and by their values in the law.
    assert law == pytest.approx(read, rel=2e-3)


def test_one_h200_does_100000_tokens_of_671b_in_five_minutes():
    found = estimate(models.load("deepseek-v3")[1], 49, 2048, H200)
    assert found.bytes == pytest.approx(690.4e9, rel=1e-3)
    assert found.limit == "disk"
    assert found.disk < found.seconds < 300


def test_a_pass_takes_as_long_as_its_slowest_part():
    config = models.load("deepseek-v3")[1]
    slow = Rates(disk=1e9, link=math.inf, products=math.inf, dequantised=math.inf)
    assert estimate(config, 1, 64, slow).seconds == pytest.approx(estimate(config, 1, 64, slow).disk)
    busy = replace(slow, products=1e12)
    found = estimate(config, 49, 2048, busy)
    assert found.limit == "processor"
    assert found.seconds == pytest.approx(found.products, rel=0.01)


def test_files_leave_the_page_cache_and_come_back(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    path.read_bytes()
    if cached([path]) < 1:
        pytest.skip("the page cache does not hold what was just read")
    evict([path])
    if cached([path]):
        pytest.skip("the page cache of this file system cannot be emptied")
    with path.open("rb") as file:
        file.read(1 << 20)
    assert cached([path]) == 1


def test_memory_that_comes_and_goes_is_seen():
    with Peak() as peak:
        held = torch.ones(100 << 20, dtype=torch.uint8)
        time.sleep(0.1)
        del held
    assert 99 << 20 < peak.grown < 150 << 20


def test_a_case_names_every_size():
    shape = cases.load()["mtp-streaming"].shape
    raw = streaming.reduced(shape)
    assert sum(entry.bytes for entry in generated.tensors(generated.Config.from_dict(raw))) > 4e9
    assert not streaming.no_room(SIZE.config(), None)


@pytest.mark.slow
def test_four_gigabytes_stream_from_a_cold_disk_within_two_layers_of_memory(tmp_path):
    """A rate is a benchmark's to say, in mtp-streaming; here the memory, and that all that was stored was read."""
    shape = cases.load()["mtp-streaming"].shape
    raw = streaming.reduced(shape)
    if lacking := streaming.no_room(raw, tmp_path):
        pytest.skip(lacking)
    with streaming.folder(raw, tmp_path, lambda line: None) as path:
        if not streaming.cold(path):
            pytest.skip("the page cache of this file system cannot be emptied")
        found = streaming.one_round(path, shape["windows"], shape["length"])
    assert found.peak <= found.allowed
    assert found.seconds * found.streamed > 4e9
