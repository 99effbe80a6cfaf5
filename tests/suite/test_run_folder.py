"""The run folder keeps what was measured, whatever happens to the process, the disk or the files."""

from __future__ import annotations

import json
import os
import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.run_folder import RunFolder, in_force, load_run, write_whole

FACTS = {
    "commit": "a" * 40, "dirty": False, "lock_sha256": None, "packages": {"v3bench": "1"}, "python": "3",
    "platform": "Linux", "device": "cpu", "cpu": {"model": "A", "cores": 2, "threads": 2, "memory_bytes": 1},
    "gpus": [], "driver": None,
}  # fmt: skip
SEGMENT = {"command": "x", "profile": "smoke", "areas": ["tpot"], "device": "cpu", "launch": "one", "start": "now"}
RECORD = Measurement(
    area="tpot", subject="s", impl="torch", case="c", case_version=1, metric="m", basis="measured", scale="proxy",
    device="cpu", clock="host", launch="one", samples=(1.25, 3),
)  # fmt: skip
SKIP = replace(RECORD, samples=(), status="skipped", why="no memory")


@pytest.fixture
def folder(tmp_path):
    """A folder with one record, closed again."""
    made = RunFolder.open(tmp_path / "run", FACTS)
    made.start(SEGMENT)
    made.append(RECORD)
    made.close()
    return made.path


@contextmanager
def disk_full_at(size):
    """No file may grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_appended_is_read_back(folder):
    run = load_run(folder)
    assert run.measurements == (RECORD,)
    assert run.info["segments"] == [{**SEGMENT, "end": None, "exit": None}]
    assert run.messages == ()


def test_text_of_any_kind_comes_back(folder):
    odd = replace(SKIP, why='\u00e9 \u2028 \x85 \r \x00 <script> \udc80 \\ "')
    opened = RunFolder.open(folder, FACTS)
    opened.append(odd)
    opened.close()
    assert load_run(folder).measurements == (RECORD, odd)


def test_a_record_is_in_the_file_at_once(folder):
    opened = RunFolder.open(folder, FACTS)
    opened.append(SKIP)
    assert load_run(folder).measurements == (RECORD, SKIP)  # not closed, not flushed by anybody else
    opened.close()


def test_finish_notes_end_and_status(folder):
    opened = RunFolder.open(folder, FACTS)
    opened.finish("later", 3)
    opened.close()
    assert load_run(folder).info["segments"][0] | {"end": "later", "exit": 3} == load_run(folder).info["segments"][0]


@pytest.mark.parametrize("kept", [1, 40, -2])
def test_a_line_cut_off_in_the_middle_is_reported_then_taken_out(folder, kept):
    path = folder / "measurements.jsonl"
    line = path.read_bytes()
    path.write_bytes(line + line[:kept])
    run = load_run(folder)
    assert run.measurements == (RECORD,)
    assert "last line is cut off" in run.messages[0]
    assert str(path) in run.messages[0]
    opened = RunFolder.open(folder, FACTS)
    assert "taken out" in opened.messages[0]
    opened.append(SKIP)
    opened.close()
    assert load_run(folder).measurements == (RECORD, SKIP)
    assert load_run(folder).messages == ()


@pytest.mark.parametrize(
    "line, what",
    [
        (b"{\n", "no JSON"),
        (b"\n", "no JSON"),
        (b"\xff\n", "no JSON"),
        (b"[" * 100_000 + b"\n", "no JSON"),
        (b"[]\n", "no JSON object"),
        (b"{}\n", "missing"),
        (SKIP.line().replace("skipped", "ok").encode() + b"\n", "samples are present"),
        (RECORD.line().replace("1.25", "NaN").encode() + b"\n", "finite"),
        (RECORD.line().replace('"one"', '"two"').encode() + b"\n", "launch"),
        (RECORD.line().replace("1.25", '"<b>"').encode() + b"\n", "number"),
    ],
)
def test_any_other_bad_line_is_named(folder, line, what):
    path = folder / "measurements.jsonl"
    path.write_bytes(path.read_bytes() + line + path.read_bytes())
    with pytest.raises(BadInput, match=what) as error:
        load_run(folder)
    assert str(path) in str(error.value)
    assert "line 2" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_run_json_is_named(folder, tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        load_run(tmp_path / "nowhere")
    for text in ("{", "[" * 100_000):
        (folder / "run.json").write_text(text)
        with pytest.raises(BadInput, match=r"run\.json: is not JSON .*expected the file as v3bench run wrote it"):
            load_run(folder)


def changed(**changes):
    facts = json.loads(json.dumps(FACTS))
    for key, value in changes.items():
        facts[key] = {**facts[key], **value} if isinstance(value, dict) else value
    return facts


@pytest.mark.parametrize(
    "facts, what",
    [
        (changed(commit="b" * 40), "commit aaaaaaaaaaaa; this is commit bbbbbbbbbbbb"),
        (changed(commit=None), "no commit"),
        (changed(dirty=True), "with changes"),
        (changed(cpu={"model": "B"}), "measured on cpu"),
        (changed(cpu={"cores": 4}), "4 cores"),
        (changed(cpu={"threads": 1}), "2 cores, 1 threads"),
        (
            changed(
                device="cuda",
                gpus=[{"name": "H", "memory_bytes": 1, "capability": "9.0", "sms": 132, "l2_bytes": 50_000_000}],
            ),
            r"this is cuda \(H, 2 threads\)",
        ),
    ],
)
def test_a_foreign_segment_is_refused_and_nothing_changes(folder, facts, what):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BadInput, match=what):
        RunFolder.open(folder, facts)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_memory_and_driver_do_not_make_a_run_foreign(folder):
    RunFolder.open(folder, changed(driver="9", cpu={"memory_bytes": 2})).close()


def test_another_case_version_is_refused(folder):
    RunFolder.open(folder, FACTS, {"c": 1, "d": 2}).close()
    with pytest.raises(BadInput, match="version 1 of case c; it is version 2 now"):
        RunFolder.open(folder, FACTS, {"c": 2})


def test_measurements_without_run_json_are_not_adopted(folder):
    (folder / "run.json").unlink()
    with pytest.raises(BadInput, match=r"no run\.json"):
        RunFolder.open(folder, FACTS)


def test_one_process_writes_at_a_time(folder):
    first = RunFolder.open(folder, FACTS)
    with pytest.raises(BadInput, match="being written by another run"):
        RunFolder.open(folder, FACTS)
    first.close()
    RunFolder.open(folder, FACTS).close()


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        RunFolder.open(tmp_path / "file" / "run", FACTS)
    with pytest.raises(BadInput, match="cannot be written"):
        RunFolder.open("/proc/run", FACTS)


def test_a_full_disk_takes_back_half_a_record(folder):
    opened = RunFolder.open(folder, FACTS)
    size = (folder / "measurements.jsonl").stat().st_size
    with disk_full_at(size + 100), pytest.raises(OSError, match="File too large"):
        opened.append(SKIP)
    assert (folder / "measurements.jsonl").stat().st_size == size
    assert opened.found == [RECORD]
    opened.append(SKIP)
    opened.close()
    assert load_run(folder).measurements == (RECORD, SKIP)


def test_several_records_are_kept_together_or_not_at_all(folder):
    opened = RunFolder.open(folder, FACTS)
    size = (folder / "measurements.jsonl").stat().st_size
    with disk_full_at(size + len(SKIP.line()) + 10), pytest.raises(OSError, match="File too large"):
        opened.append(SKIP, SKIP)
    opened.close()
    assert load_run(folder).measurements == (RECORD,)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")
    with disk_full_at(100), pytest.raises(OSError, match="File too large"):
        write_whole(path, "new" * 100)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to("file")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"


def test_a_device_is_written_to_and_never_replaced():
    read, write = os.pipe()
    write_whole(Path(f"/proc/self/fd/{write}"), "text")
    os.close(write)
    with os.fdopen(read) as file:
        assert file.read() == "text"
    with pytest.raises(OSError, match="No space left"):
        write_whole(Path("/dev/full"), "text")
    assert Path("/dev/full").is_char_device()


def test_a_full_disk_at_the_start_is_one_line(tmp_path):
    opened = RunFolder.open(tmp_path / "run", FACTS)
    with disk_full_at(10), pytest.raises(BadInput, match="cannot be written"):
        opened.start(SEGMENT)
    opened.close()


def test_a_skip_is_in_force_until_measured():
    later = replace(SKIP, why="still none")
    failed = replace(SKIP, status="failed", why="broke")
    assert in_force([SKIP, RECORD]) == (RECORD,)
    assert in_force([SKIP, later]) == (later,)
    assert in_force([RECORD, failed]) == (RECORD, failed)  # a failure after a success is not hidden
    assert in_force([RECORD, RECORD]) == (RECORD, RECORD)  # two launches of a case both stand
    other = replace(RECORD, subject="t")
    assert in_force([SKIP, other]) == (SKIP, other)
