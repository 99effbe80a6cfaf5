"""Interleaved timing: the order, the warm-up, the budget; on a clock that the test winds."""

from __future__ import annotations

from v3bench.suite.meter.measure import EFFORTS, ONCE, PATIENCE, Effort, interleaved


def timing(durations, effort, seconds_per_call=0.0):
    """(samples, order of calls) of an interleaved timing with given durations by name."""
    order, now = [], [0.0]
    runs = {name: (lambda name=name: order.append(name)) for name in durations}
    series = {name: iter(values) for name, values in durations.items()}

    def clock(run):
        run()
        now[0] += seconds_per_call
        return next(series[order[-1]])

    return interleaved(runs, clock, effort, lambda: now[0]), "".join(order)


def test_the_order_turns_round_each_cycle_and_the_warm_up_is_dropped():
    effort = Effort(rounds=3, warmup=1, seconds=9)
    samples, order = timing({"A": [9, 1, 2, 3], "B": [8, 4, 5, 6]}, effort)
    assert order == "AB" + "AB" + "BA" + "AB"
    assert samples == {"A": (1, 2, 3), "B": (4, 5, 6)}


def test_three_take_turns_too():
    _, order = timing({name: range(9) for name in "ABC"}, Effort(rounds=2, warmup=0, seconds=9))
    assert order == "ABC" + "CBA"


def test_the_budget_ends_it_after_the_fewest():
    effort = Effort(rounds=100, warmup=0, seconds=2.0, fewest=3)
    samples, _ = timing({"A": range(99), "B": range(99)}, effort, seconds_per_call=0.1)
    assert len(samples["A"]) == len(samples["B"]) == 20
    samples, _ = timing({"A": range(99), "B": range(99)}, effort, seconds_per_call=1.0)
    assert len(samples["A"]) == 3


def test_patience_ends_it_before_the_fewest():
    effort = Effort(rounds=100, warmup=0, seconds=1.0, fewest=50)
    samples, _ = timing({"A": range(99)}, effort, seconds_per_call=1.0)
    assert len(samples["A"]) == PATIENCE
    samples, _ = timing({"A": range(99)}, effort, seconds_per_call=1000.0)
    assert len(samples["A"]) == 1


def test_once_is_one_call():
    samples, order = timing({"A": [7]}, ONCE)
    assert (samples, order) == ({"A": (7,)}, "A")


def test_every_profile_has_an_effort_that_gives_an_interval():
    assert set(EFFORTS) == {"smoke", "quick", "standard", "full"}
    assert all(effort.fewest >= 6 for effort in EFFORTS.values())
