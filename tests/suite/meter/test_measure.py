"""Interleaved timing: the order, the warm-up, the budget; on a clock that the test winds."""

from __future__ import annotations

import pytest
from v3bench.suite.meter.measure import DEVICE_EFFORTS, EFFORTS, ONCE, PATIENCE, REST, Effort, interleaved, watched


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
    assert set(EFFORTS) == set(DEVICE_EFFORTS) == {"smoke", "quick", "standard", "full"}
    assert all(effort.fewest >= 6 for effort in [*EFFORTS.values(), *DEVICE_EFFORTS.values()])


class Watch:
    """Runs that note their names and take 1, 2, 3 ... seconds, and a watch that answers what the test says."""

    def __init__(self, names, answers=(), raises=None):
        self.order, self.watched, self.rests, self.ticks = [], [], [], iter(range(1, 10_000))
        self.answers, self.raises = iter(answers), raises or {}
        self.runs = {name: (lambda name=name: self.run(name)) for name in names}

    def run(self, name):
        self.order.append(name)
        if self.order.count(name) >= self.raises.get(name, 10_000):
            raise RuntimeError(f"{name} broke\nand so on")

    def clock(self, run):
        run()
        return next(self.ticks)

    def watch(self, name):
        self.watched.append(name)
        return next(self.answers, "")

    def go(self, rounds, warmup=0, **kinds):
        effort = Effort(rounds=rounds, warmup=warmup, seconds=9.0)
        return watched(self.runs, self.clock, effort, self.watch, rest=self.rests.append, now=lambda: 0.0, **kinds)


def test_watched_runs_take_turns_and_are_watched_in_turn():
    watch = Watch("AB")
    taken = watch.go(rounds=4, warmup=1)
    assert "".join(watch.order) == "AB" + "AB" + "BA" + "AB" + "BA"
    assert taken.samples == {"A": [3, 6, 7, 10], "B": [4, 5, 8, 9]}
    assert "".join(watch.watched) == "ABBA"
    assert (taken.void, taken.failed, watch.rests) == ([], {}, [])


def test_a_void_cycle_is_dropped_for_all_and_repeated_in_its_order_after_a_rest():
    watch = Watch("AB", answers=["", "hot", "hot", ""])
    taken = watch.go(rounds=3)
    assert "".join(watch.order) == "AB" + "BA" * 3 + "AB"
    assert taken.samples == {"A": [1, 8, 9], "B": [2, 7, 10]}  # seconds 3 to 6 were void
    assert taken.void == ["hot", "hot"]
    assert watch.rests == [REST, REST]


def test_repeating_has_a_limit():
    watch = Watch("AB", answers=["", *["hot"] * 99])
    taken = watch.go(rounds=9, most_void=3)
    assert taken.samples == {"A": [1], "B": [2]}
    assert taken.void == ["hot"] * 4
    assert len(watch.rests) == 3


def test_who_raises_drops_out_and_the_others_go_on():
    watch = Watch("ABC", raises={"B": 2})
    taken = watch.go(rounds=3)
    assert "".join(watch.order) == "ABC" + "CBA" + "AC"
    assert taken.samples == {"A": [1, 5, 6], "C": [3, 4, 7]}
    assert taken.failed == {"B": "RuntimeError: B broke"}


def test_who_raises_while_it_is_watched_drops_out_too():
    watch = Watch("AB")

    def look(name):
        if name == "B":
            raise ValueError("broken under load")
        return ""

    taken = watched(watch.runs, watch.clock, Effort(rounds=3, warmup=0, seconds=9.0), look, now=lambda: 0.0)
    assert taken.samples == {"A": [1, 4, 5]}
    assert taken.failed == {"B": "ValueError: broken under load"}


def test_nobody_left_ends_quietly():
    watch = Watch("A", raises={"A": 1})
    taken = watch.go(rounds=3, warmup=2)
    assert (taken.samples, taken.failed) == ({}, {"A": "RuntimeError: A broke"})
    assert watch.order == ["A"]


def test_an_interrupt_is_nobodys_failure():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched({"A": stop}, lambda run: run(), Effort(rounds=1, warmup=0, seconds=1.0), lambda name: "")
