"""Topologies: prime powers, small linear systems, and prices that rounded costs leave room for."""

import pytest
from v3bench.suite.laws.topology import Bounded, is_prime_power, price_ranges, solve


def test_prime_powers():
    assert [q for q in range(1, 33) if is_prime_power(q)] == [
        2,
        3,
        4,
        5,
        7,
        8,
        9,
        11,
        13,
        16,
        17,
        19,
        23,
        25,
        27,
        29,
        31,
        32,
    ]


def test_solving():
    assert solve([[0.0, 2.0], [1.0, 1.0]], [4.0, 5.0]) == pytest.approx([3, 2])
    assert solve([[1.0, 1.0], [2.0, 2.0]], [1.0, 2.0]) is None


def test_prices_that_are_fixed_are_found():
    networks = [Bounded((1, 0), 10, 10), Bounded((1, 2), 16, 16)]
    assert price_ranges(networks) == (pytest.approx((10, 10)), pytest.approx((3, 3)))


def test_bounds_give_ranges():
    networks = [Bounded((1, 0), 9, 11), Bounded((1, 1), 15, 16)]
    switch, link = price_ranges(networks)
    assert switch == pytest.approx((9, 11))
    assert link == pytest.approx((4, 7))


def test_no_price_is_negative():
    assert price_ranges([Bounded((1, 1), 10, 10), Bounded((1, 2), 9, 9)]) is None


def test_costs_that_exclude_each_other():
    assert price_ranges([Bounded((1, 0), 1, 2), Bounded((2, 0), 10, 11), Bounded((0, 1), 1, 1)]) is None
