"""Unit prices that Table 3's printed costs leave room for."""

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.prices import network, price_high, price_low, prices_fit, printed


def test_a_printed_cost_stands_for_a_range():
    assert printed("fabric-ft2-cost") == (8_500_000, 9_500_000)
    assert printed("fabric-mpft-cost-per-endpoint") == pytest.approx((4385, 4395))


def test_both_printed_columns_bound_a_network():
    ft2 = network("ft2", 3)
    assert ft2.counts == (96, 2048, 0)
    assert (ft2.low, ft2.high) == pytest.approx((4385 * 2048, 4395 * 2048))


def test_two_prices_do_not_fit_all_networks():
    assert (prices_fit(2, 4), prices_fit(2, 5), prices_fit(3, 5), prices_fit(4, 5)) == (1, 0, 1, 1)
    with pytest.raises(BadInput, match="no 2 unit prices fit"):
        price_low(0, 2, 5)


def test_ranges():
    assert (price_low(0, 3, 5), price_high(0, 3, 5)) == pytest.approx((81_299.5, 82_613.1), rel=1e-5)
    assert (price_low(1, 3, 5), price_high(1, 3, 5)) == pytest.approx((515.14, 574.08), rel=1e-4)
    assert (price_low(2, 3, 5), price_high(2, 3, 5)) == pytest.approx((407.26, 465.53), rel=1e-4)
    assert price_low(0, 4, 5) == pytest.approx(31_895.5, rel=1e-5)


def test_what_cannot_be_asked():
    with pytest.raises(BadInput):
        prices_fit(5, 5)
