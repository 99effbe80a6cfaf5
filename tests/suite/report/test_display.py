"""Numbers as they are shown."""

import numpy as np
import pytest
from v3bench.suite.report.display import MISSING, amount, fixed, joined, metric_unit, number, plain


@pytest.mark.parametrize(
    "value, shown",
    [
        (70272, "70,272"),
        (671026419200, "671,026,419,200"),
        (70272.0, "70,272"),
        (0.01475712, "0.01476"),
        (7.344262, "7.344"),
        (-3, "\u22123"),
        (3.2e-9, "3.2 \u00d7 10\u207b\u2079"),
        (2.5e15 + 0.5, "2.5 \u00d7 10\u00b9\u2075"),
        (0, "0"),
        (None, MISSING),
        (float("nan"), MISSING),
        (True, "yes"),
        (np.float64(0.5), "0.5"),
        (np.int64(12), "12"),
        (9.99996, "10"),
    ],
)
def test_number(value, shown):
    assert number(value) == shown


def test_more_digits_show_more():
    assert number(250.457382912, 6) == "250.457"


def test_measured_values_keep_their_last_zeros():
    assert [number(x, zeros=True) for x in (50.3, 50.0004, 0.5, 70272.0)] == ["50.30", "50.00", "0.5000", "70,272"]


def test_fixed_keeps_decimals_and_never_hides_a_small_value():
    assert [fixed(x) for x in (250.457, 2447.85, 7.0, 0.0023, 0.0)] == ["250.46", "2,447.85", "7.00", "0.0023", "0.00"]


def test_amount_sets_the_unit_apart_but_not_the_percent_sign():
    assert amount(70.272, "kB") == "70.272\u00a0kB"
    assert amount(43.73, "%") == "43.73%"
    assert amount(7.28, "x") == "7.28\u00a0\u00d7"
    assert amount(3, "1") == "3"


def test_metric_units_come_from_the_metrics_file():
    assert metric_unit("time") == ("ms", 1e3)
    assert metric_unit("no such metric") == ("", 1.0)


def test_plain_text_of_json_values():
    assert plain(["model", "mtp"]) == "model, mtp"
    assert plain(None) == plain("") == MISSING
    assert plain({"a": 1}) == "a 1"


def test_joined():
    assert [joined(p) for p in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
