"""Nodes a token touches: by counting, by brute force on a small case, by simulation."""

import itertools

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite import models
from v3bench.suite.laws.routing import (
    Routing,
    chance_of,
    chance_of_all_groups,
    chance_within_limit,
    limited,
    limited_mean,
    mean_groups,
)

V3 = Routing(256, 8, 8, 4)


def test_the_routing_of_a_config():
    assert Routing.of(models.load("deepseek-v3")[1]) == V3
    with pytest.raises(BadInput, match="routes no experts"):
        Routing.of(models.load("llama-3.1-8b")[1])


def test_figures_of_v3():
    assert mean_groups(V3) == pytest.approx(5.2947, abs=1e-4)
    assert chance_of_all_groups(V3) == pytest.approx(0.0026839, abs=1e-6)
    assert chance_within_limit(V3) == pytest.approx(0.17481, abs=1e-5)


def test_chances_sum_to_one_and_give_the_mean():
    chances = [chance_of(V3, n) for n in range(9)]
    assert sum(chances) == pytest.approx(1)
    assert sum(n * p for n, p in enumerate(chances)) == pytest.approx(mean_groups(V3))


def test_counting_equals_brute_force():
    small = Routing(8, 4, 3, 2)
    touched = [len({expert // 2 for expert in choice}) for choice in itertools.combinations(range(8), 3)]
    for n in range(5):
        assert chance_of(small, n) == pytest.approx(touched.count(n) / len(touched))
    assert mean_groups(small) == pytest.approx(sum(touched) / len(touched))


def test_the_limit_holds_and_is_nearly_met():
    mean, error = limited(V3, tokens=2000, seed=1)
    assert mean <= 4
    assert mean == pytest.approx(3.954, abs=5 * error + 0.002)


def test_a_limit_that_limits_nothing_gives_free_routing():
    free = Routing(64, 8, 8, 8)
    mean, error = limited(free, tokens=4000, seed=2)
    assert mean == pytest.approx(mean_groups(free), abs=5 * error)


def test_the_simulation_repeats():
    assert limited_mean(V3) == limited.__wrapped__(V3)[0]
