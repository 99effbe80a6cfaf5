"""A run that is killed while it trains: what was finished is kept, and --resume makes the rest."""

import signal
import subprocess
import time

import pytest
from v3bench.suite.run_folder import load_run, read_records

BENCH = """
from v3bench.suite.train import proxies
from v3bench.suite.train.campaign import Campaign

proxies.load = lambda: {{"small": proxies.Proxy(preset="deepseek-v3-small", change={change!r}, why="a test")}}


def test_loss_gap(record, case, series, device):
    Campaign(record, device).gaps(proxies.tried(series))
"""
CASE = """
[gap]
area = "fp8"
bench = "loss_gap"
metric = "loss_gap"
basis = "measured"
version = 1
subjects = ["proxy.bf16", "proxy.fp8"]
impls = ["emulated"]
profiles = ["smoke"]
why = "a test"
model = "small"
corpus = "{folder}"
seeds = 3
steps = 40
batch = 2
length = 16
window = 10
"""


@pytest.mark.slow
def test_finished_runs_outlive_a_kill(child, plan, folder):
    child.write([], fp8=BENCH.format(change=plan.change))
    (child.path / "cases.toml").write_text(CASE.format(folder=folder))
    first = subprocess.Popen(child.command(), cwd=child.path, stderr=subprocess.DEVNULL)
    for _ in range(3000):
        if child.out.exists() and read_records(child.out)[0]:
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = read_records(child.out)[0]
    assert kept
    assert {m.metric for m in kept} == {"run_loss"}
    done = child.start(resume=True)
    assert done.returncode == 0, done.stderr
    found = load_run(child.out).measurements
    runs = [(m.subject, m.convention) for m in found if m.metric == "run_loss"]
    assert len(set(runs)) == len(runs) == 9
    assert found[: len(kept)] == tuple(kept)
    assert {(m.subject, len(m.samples)) for m in found if m.metric == "loss_gap"} == {
        ("proxy.bf16", 3), ("proxy.fp8", 3),
    }  # fmt: skip
    assert [path.name for path in child.out.glob("corpus-*.json")]
