"""The record: samples if and only if it worked, and it comes back from its line as it was."""

from __future__ import annotations

import json

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.meter.measurement import Measurement

OK = {
    "area": "tpot", "subject": "s", "impl": "torch", "case": "c", "case_version": 1, "metric": "m", "basis": "measured",
    "scale": "proxy", "samples": (0.1, 2),
}  # fmt: skip


def test_a_line_comes_back_equal():
    for record in (Measurement(**OK), Measurement(**{**OK, "samples": (), "status": "skipped", "why": "<b>\u00e9\n"})):
        assert "\n" not in record.line()
        assert Measurement.from_json(json.loads(record.line()), "here") == record


@pytest.mark.parametrize(
    "change, what",
    [
        ({"samples": ()}, "if and only if status is ok"),
        ({"status": "failed", "why": "x"}, "if and only if status is ok"),
        ({"why": "x"}, "a reason is given"),
        ({"status": "failed", "samples": ()}, "a reason is given"),
        ({"samples": (float("nan"),)}, "finite"),
        ({"samples": (float("inf"),)}, "finite"),
        ({"samples": (True,)}, "finite number"),
        ({"area": "speed"}, "area is 'speed'; expected one of model"),
        ({"clock": "sun"}, "clock is 'sun'"),
    ],
)
def test_what_makes_no_sense_is_refused(change, what):
    with pytest.raises(BadInput, match=what):
        Measurement(**{**OK, **change})
