"""Units: factors, kinds, and text that is no unit."""

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.units import from_si, same_kind, show, to_si, unit


@pytest.mark.parametrize(
    "text, factor",
    [
        ("B", 1),
        ("kB", 1000),
        ("KiB", 1024),
        ("GB/s", 10**9),
        ("Gb/s", 125_000_000),
        ("us", 1e-6),
        ("%", 0.01),
        ("TFLOP/s", 10**12),
        ("thousand GPU-h", 3_600_000),
        ("billion tok/day", 10**9 / 86400),
        ("$/GPU-h", 1 / 3600),
        ("billion params", 10**9),
        ("1/s", 1),
    ],
)
def test_factors(text, factor):
    assert unit(text)[0] == pytest.approx(factor, rel=1e-12)


def test_kinds():
    assert same_kind("GB", "B")
    assert same_kind("tok/s", "Hz")
    assert same_kind("W", "J/s")
    assert not same_kind("degC", "1")
    assert same_kind("thousand GPU-h", "day")
    assert not same_kind("GB", "GB/s")
    assert not same_kind("FLOP", "B")
    assert not same_kind("$", "1")


@pytest.mark.parametrize("text", ["", "parsec", "GBs", "kx", "ms/parsec", "B//s", "/s"])
def test_text_that_is_no_unit(text):
    with pytest.raises(BadInput, match="not understood"):
        unit(text)


def test_integers_stay_integers():
    assert to_si(50, "GB/s") == 50_000_000_000
    assert isinstance(from_si(70_272, "B"), int)
    assert from_si(70_272, "kB") == 70.272
    assert from_si(3 * 10**9, "billion params") == 3


def test_a_value_for_people():
    assert show(6_048_000, "B") == "6048000 B"
    assert show(0.82, "ms") == "0.82 ms"
    assert show(38.94, "%") == "38.94%"
    assert show(8, "1") == "8"
