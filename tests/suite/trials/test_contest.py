"""An implementation counts when its result does: right, of ours' kind, the same twice, and nothing else touched."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from v3bench.suite.trials import contest
from v3bench.suite.trials.contest import Wrong, examine
from v3bench.suite.trials.trial import Missing, Rival, Trial, package


def double(x, config=None):
    y = torch.empty_like(x)
    return torch.mul(x, 2 if config is None else config["times"], out=y)


def apart(got, want, inputs):
    return float((got.double() - want).abs().nan_to_num(nan=float("inf")).max() / 1e-3)


def absent(inputs):
    raise Missing("package not installed")


TRIAL = Trial(
    op="double", calling="", inputs=lambda shape, device: {"x": torch.randn(shape["M"], 3)}, ours=double,
    oracle=lambda x: 2 * x.double(), error=apart, small_config={"times": 2.0},
    rivals={
        "good": Rival(lambda inputs: partial(torch.add, inputs["x"], inputs["x"]), error=apart),
        "bad": Rival(lambda inputs: partial(torch.add, inputs["x"], 1), error=apart),
        "other": Rival(lambda inputs: partial(torch.add, inputs["x"], 1), "computes something else"),
        "absent": Rival(absent),
    },
)  # fmt: skip


def own_part(x):
    """Leaves its last row unwritten."""
    y = torch.empty_like(x)
    y[:-1] = 2 * x[:-1]
    return y


def own_chance(x):
    return 2 * x + 1e-6 * torch.rand_like(x)


def own_writes(x):
    return x.mul_(2)


def own_swaps(x):
    """The right result of x as it is; its first two rows change places."""
    y = 2 * x
    x[:2] = x[:2].flip(0)
    return y


def own_raises(x):
    raise RuntimeError("out of\nluck")


@pytest.fixture
def tried():
    inputs = {"x": torch.randn(4, 3)}

    def run(impl, **options):
        return examine(TRIAL, impl, inputs, TRIAL.oracle(**inputs), **options)

    return run


def test_ours_and_a_right_rival_pass(tried):
    error, result = tried("triton")
    assert error <= 1
    assert result.shape == (4, 3)
    assert tried("good")[0] <= 1
    assert tried("triton", small=True)[0] <= 1


def test_a_rival_with_other_numerics_is_held_to_nothing(tried):
    assert tried("other")[0] is None


@pytest.mark.parametrize(
    "impl, what",
    [
        ("bad", "its error is .* times what is allowed"),
        (f"{__name__}:own_part", "its error is beyond any bound"),
        (f"{__name__}:own_chance", "two runs on the same inputs differ"),
        (f"{__name__}:own_writes", "changes its input x"),
        (f"{__name__}:own_swaps", "changes its input x"),
        (f"{__name__}:own_raises", "raised RuntimeError: out of luck"),
        ("absent", "package not installed"),
    ],
)
def test_why_another_does_not_count_is_said(tried, impl, what, monkeypatch):
    monkeypatch.setattr(contest.own, "function", lambda name: globals()[name.partition(":")[2]])
    with pytest.raises((Wrong, Missing), match=what) as error:
        tried(impl)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "function, what",
    [
        (lambda x: (2 * x).double(), r"returned float64 \(4, 3\) on cpu, expected float32 \(4, 3\) on cpu"),
        (lambda x: 2 * x[:2], r"returned float32 \(2, 3\) on cpu, expected float32 \(4, 3\)"),
        (lambda x: (2 * x, x), "returned tuple, expected float32"),
        (lambda x: None, "returned NoneType, expected float32"),
    ],
)
def test_a_result_of_another_kind_than_ours_is_named(tried, monkeypatch, function, what):
    monkeypatch.setattr(contest.own, "function", lambda name: function)
    with pytest.raises(Wrong, match=what):
        tried("mine:f", like=double(torch.randn(4, 3)))


def test_what_lies_between_an_inputs_strides_is_held_too(monkeypatch):
    whole = torch.randn(4, 4)
    inputs = {"x": whole[:, :3], "n": 3}
    monkeypatch.setattr(contest.own, "function", lambda name: lambda x, n: (whole[:, 3].neg_(), 2 * x)[1])
    with pytest.raises(Wrong, match="changes its input x"):
        examine(TRIAL, "mine:f", inputs, 2 * inputs["x"].double())
    monkeypatch.setattr(contest.own, "function", lambda name: lambda x, n: 2 * x)
    assert examine(TRIAL, "mine:f", inputs, 2 * inputs["x"].double())[0] <= 1


def test_tuples_are_compared_part_by_part():
    a, b = torch.zeros(2), torch.zeros(3)
    assert contest.differing((a, b), (a, b)) == contest.differing([a, b], (a, b)) == ""
    assert contest.differing((a, a), (a, b)) == "returned float32 (2,) on cpu as result 2, expected float32 (3,) on cpu"
    assert contest.differing(a, (a, b)) == "returned float32 (2,) on cpu, expected 2 results"
    assert contest.differing((a,), (a, b)) == "returned 1 results, expected 2 results"


def test_a_package_that_breaks_while_it_loads_is_missing_with_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise OSError('libx.so: no such file\\nor symbol')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Missing, match=r"^broken_library cannot be imported: libx\.so: no such file or symbol$"):
        package("broken_library")
    with pytest.raises(Missing, match=r"^no_such_package\.part cannot be imported: No module named"):
        package("no_such_package.part")
