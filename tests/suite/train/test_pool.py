"""Runs in child processes: the same bits as here; errors come back; children end with whoever asked."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.train import checkpoint, pool

PARENT = """
import sys
from v3bench.suite.train import pool
from v3bench.suite.train.plan import Plan

plan = Plan.from_json(sys.argv[1])
pool.children()[0].ask({"plan": "{}"})  # has begun, and refuses
print(pool.children()[0].child.pid, flush=True)
for _ in pool.completed([plan]):
    pass
"""


@pytest.fixture(scope="module", autouse=True)
def children():
    """One is enough here, as each takes seconds to begin."""
    pool.children.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "WIDTH", 1)
        pool.children()
    yield
    for child in pool.children():
        child.close()


def test_the_same_bits_in_a_child(plan):
    plans = [replace(plan, recipe=recipe, init=n) for recipe, n in (("fp32", 0), ("bf16", 1))]
    found = {(p.recipe, p.init): outcome for p, outcome in pool.completed(plans)}
    assert found == {(p.recipe, p.init): checkpoint.train(p) for p in plans}


def test_what_is_refused_is_refused_here(plan):
    with pytest.raises(BadInput, match="more than one epoch; expected at most"):
        list(pool.completed([replace(plan, steps=10_000)]))


def test_what_breaks_is_said(plan):
    with pytest.raises(RuntimeError, match="the run of fp32 broke: ValueError"):
        list(pool.completed([replace(plan, betas=(2.0, 2.0))]))


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_runs(plan):
    long = replace(plan, steps=250, batch=1, length=16)
    runs = pool.completed([plan, replace(long, init=1), replace(long, init=2)])
    next(runs)
    start = time.monotonic()
    runs.close()
    assert time.monotonic() - start < 60  # no time is asserted: they would take some minutes
    assert dict(pool.completed([plan]))  # and the next begin anew


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_children_end_with_a_parent_that_is_killed(plan):
    long = replace(plan, steps=250, batch=1)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, long.as_json()], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    time.sleep(1)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    for _ in range(100):
        if not alive(child):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} goes on training")
