"""run.json and a measurement: the readers accept exactly what the JSON Schemas accept."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.meter import machine
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.run_info import SCHEMA, check_info

SCHEMAS = Path(__file__).parents[2] / "suite" / "schemas"
SEGMENT = {
    "command": "v3bench run", "profile": "smoke", "areas": ["tpot"], "device": "cpu", "launch": "one",
    "start": "2026-01-01T00:00:00+00:00", "end": None, "exit": None,
}  # fmt: skip
INFO = {
    "schema": SCHEMA, "commit": None, "dirty": False, "lock_sha256": None, "packages": {"torch": "2"}, "python": "3",
    "platform": "Linux", "device": "cpu", "cpu": {"model": "A", "cores": 2, "threads": 2, "memory_bytes": 1},
    "gpus": [{"name": "G", "memory_bytes": 1, "capability": "9.0", "sms": 132, "l2_bytes": 62914560}],
    "driver": "1", "segments": [SEGMENT],
}  # fmt: skip
RECORD = {
    "area": "tpot", "subject": "s", "impl": "torch", "case": "c", "case_version": 1, "metric": "m", "basis": "measured",
    "scale": "proxy", "convention": "", "precision": "", "device": "cpu", "clock": "host", "launch": "one",
    "samples": [1.5, 2], "status": "ok", "why": "",
}  # fmt: skip
SKIPPED = {**RECORD, "samples": [], "status": "skipped", "why": "no GPU"}


def schema(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text()))


def accepts(read, raw) -> bool:
    try:
        read(raw, "file: line 1")
    except BadInput:
        return False
    return True


def paths(value, at=()):
    """Every place in a JSON value, the whole included."""
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*at, key))


def changed(value, at, new):
    """A copy with the place set, or deleted when ``new`` is ...."""
    whole = {"": copy.deepcopy(value)}
    path, table = ["", *at], whole
    for key in path[:-1]:
        table = table[key]
    if new is ...:
        del table[path[-1]]
    else:
        table[path[-1]] = new
    return whole.get("")


ODD = [..., None, True, 0, -1, 2, 1.5, "", "x", "ok", "skipped", [], ["x"], [True], [1.0], {}, {"x": "y"}, {"x": 1}]


def disagreements(name: str, read, good):
    """Each place of a good value, changed to each odd one, on which reader and schema differ."""
    validator = schema(name)
    changes = [(at, new, changed(good, at, new)) for at in paths(good) if at for new in ODD]
    verdicts = {(at, str(new)): (accepts(read, raw), validator.is_valid(raw)) for at, new, raw in changes}
    assert {reader for reader, _ in verdicts.values()} == {True, False}
    return {key: pair for key, pair in verdicts.items() if pair[0] != pair[1]}


def test_reader_and_schema_agree_on_run_json():
    assert accepts(check_info, INFO)
    assert not disagreements("run", check_info, INFO)


@pytest.mark.parametrize("good", [RECORD, SKIPPED])
def test_reader_and_schema_agree_on_measurements(good):
    assert accepts(Measurement.from_json, good)
    assert not disagreements("measurement", Measurement.from_json, good)


@pytest.mark.parametrize("name, read", [("run", check_info), ("measurement", Measurement.from_json)])
def test_surplus_field_is_refused_by_both(name, read):
    raw = {**(INFO if name == "run" else RECORD), "surplus": 1}
    assert not accepts(read, raw)
    assert not schema(name).is_valid(raw)


@pytest.mark.parametrize("raw", [None, [], 3, "x"])
def test_what_is_no_object_is_refused_by_both(raw):
    for name, read in (("run", check_info), ("measurement", Measurement.from_json)):
        assert not accepts(read, raw)
        assert not schema(name).is_valid(raw)


def test_this_machine_fits_the_schema():
    info = {"schema": SCHEMA, **machine.describe("cpu"), "segments": []}
    assert schema("run").is_valid(json.loads(json.dumps(info)))
    assert check_info(info, "here") == info


def test_a_later_schema_is_named():
    with pytest.raises(BadInput, match="schema version 2; expected 1"):
        check_info({**INFO, "schema": 2}, "run.json")
