"""Kernels beside their rivals: checked on every shape, then timed; without a GPU interpreted on small shapes."""

from contextlib import contextmanager
from importlib.util import find_spec

import pytest
from v3bench.suite.meter.ceilings import ceilings
from v3bench.suite.trials import own, race, registry
from v3bench.suite.trials.contest import Lost, Wrong
from v3bench.suite.trials.interpret import MOST, interpreter
from v3bench.suite.trials.trial import Missing


@pytest.fixture(autouse=True)
def triton():
    """Kernels are written in Triton, which has no wheel for every machine."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")


@contextmanager
def judged(record):
    """A wrong result fails the benchmark with its reason; what cannot run here skips it; a lost GPU ends the run."""
    try:
        yield
    except Wrong as wrong:
        pytest.fail(str(wrong), pytrace=False)
    except Missing as missing:
        pytest.skip(str(missing))
    except Lost as lost:
        session = record.session
        session.keep(record.blank(f"{record.series.partition('/')[0]}/{lost.impl}", status="failed", why=lost.said))
        session.cut_short = f"{lost}; what was measured is kept, and --resume goes on"
        pytest.exit(session.cut_short, returncode=3)


def test_ceilings(record, case, series, device):
    """What torch reaches on this GPU: copy, read, matrix products."""
    ceilings(record, case, device)


def test_interpreted(record, case, series):
    """A kernel on the small odd shapes of its trial, in a child process with Triton's interpreter.

    A quick run takes the first shape of each operation only, of one's own kernel all.
    """
    op, impl = race.operation(series)
    few = record.session.plan.profile in ("smoke", "quick") and not own.is_own(impl)
    with judged(record):
        found = interpreter()(op, impl, 1 if few else MOST)
    record([found.error], convention=f"interpreted, {found.shapes}", precision=found.precision)


def test_checked(record, case, series, device):
    """A kernel on the GPU on every shape it has in the model, against float64 on the same operands."""
    op, impl = race.operation(series)
    shapes = case.shape["shapes"]
    with judged(record):
        worst, checked = race.checked(op, impl, shapes, device)
    record([worst], convention=f"worst of {checked} of {len(shapes)} shapes", precision=registry.load(op).precision)


def test_timed(record, case, series, device):
    """A kernel and its rivals at one shape, each checked first; in turns, over rotating buffers."""
    op, _ = race.operation(series)
    precision = registry.load(op).precision

    def build():
        field = race.Field(case, device)
        with judged(record):
            record.gate(field.enter)
        for name, error in field.errors.items():
            record.beside([error], series=name, metric="error_of_bar", precision=precision)
        return field.contenders

    record.timed_kernels(build, precision=precision)
