"""Progress: one line per case, with what has passed and about what is left."""

from __future__ import annotations

from types import SimpleNamespace

from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.meter.progress import Compiling, Layers, Progress, Reading, Training, minutes, unsteady
from v3bench.suite.meter.statistics import ratio_claim


def item(case, area="tpot"):
    return SimpleNamespace(
        name="test", callspec=SimpleNamespace(params={"case": case}), module=SimpleNamespace(__name__=f"x.bench_{area}")
    )


def test_cases_are_said_once_and_the_rest_is_estimated():
    said, now = [], [0.0]
    items = [item("a"), item("a"), item("b"), item("c"), item("d", area="kv_cache")]
    progress = Progress(items, said.append, lambda: now[0])
    for each in items:
        progress.begin(each)
        now[0] += 30
    progress.note("skipped: no GPU")
    assert said == [
        "[1/4] tpot a (0:00 so far)",
        "[2/4] tpot b (1:00 so far)",
        "[3/4] tpot c (1:30 so far, about 1:30 left)",
        "[4/4] kv_cache d (2:00 so far, about 0:40 left)",
        "    skipped: no GPU",
    ]


def test_cases_of_another_device_are_said_in_one_line():
    said = []
    items = [item(name) for name in "abcde"]
    progress = Progress(items, said.append, lambda: 0.0, away={"needs a GPU": items[:4]})
    for each in items:
        progress.begin(each)
        progress.note("skipped: needs a GPU")
    assert said == [
        "skipped: needs a GPU: tpot a, tpot b, tpot c and 1 more",
        "[1/1] tpot e (0:00 so far)",
        "    skipped: needs a GPU",
    ]


def test_other_tests_go_by_their_name():
    said = []
    other = SimpleNamespace(name="test_other")
    Progress([other], said.append, lambda: 0.0).begin(other)
    assert said == ["[1/1] test_other (0:00 so far)"]


def times(impl, samples, clock="host"):
    return Measurement(
        area="tpot", subject="s", impl=impl, case="c", case_version=1, metric="m", basis="measured", scale="proxy",
        clock=clock, samples=samples,
    )  # fmt: skip


def test_times_that_spread_are_remarked_upon():
    steady, wide = (1.0, 1.1, 1.1, 1.2, 9.0), (1.0, 1.0, 2.0, 2.0)
    assert unsteady([times("a", steady)]) == ""
    assert unsteady([times("a", wide, clock="none")]) == ""
    said = unsteady([times("a", steady), times("b", wide)])
    assert said.endswith("the quartiles lie apart by s/b 2.0x")


def test_a_device_clock_is_held_to_the_limit_of_a_claim():
    steady, loose = (1.0,) * 5 + (1.02,) * 5, (1.0,) * 5 + (1.04,) * 5
    assert unsteady([times("a", steady, clock="device-hot")]) == ""
    assert unsteady([times("a", loose)]) == ""
    said = unsteady([times("a", loose, clock="device-cold")])
    assert said == "no ratio is claimed: p10 and p90 lie apart by s/a 3.9%"


def test_a_few_samples_of_a_device_clock_are_too_few_and_not_too_far_apart():
    few, enough, loose = (1.0,) * 4, (1.0,) * 5, (1.0, 1.0, 1.0, 1.0, 1.2)
    assert unsteady([times("a", enough, clock="device-hot")]) == ""
    assert unsteady([times("a", few)]) == ""
    said = unsteady([times(name, few[:n], clock="device-hot") for name, n in (("a", 4), ("b", 1))])
    assert said == "no ratio is claimed of fewer than 5 samples: s/a 4, s/b 1"
    both = unsteady([times("a", few, clock="device-hot"), times("b", loose, clock="device-hot")])
    assert both.startswith("no ratio is claimed of fewer than 5 samples: s/a 4; no ratio is claimed: p10 and p90")
    assert both.endswith("lie apart by s/b 12.0%")
    for samples, bears in ((few, False), (enough, True), (loose, False)):  # what is remarked on is what bears no claim
        assert bears == (not isinstance(ratio_claim(samples, samples), str))


def test_compiling_says_a_twentieth_at_a_time_but_not_more_often_than_every_few_seconds():
    said, now = [], [0.0]
    compiling = Compiling("fp8_gemm", 200, said.append, lambda: now[0])
    for done in range(1, 201):
        now[0] += 0.125 if done <= 80 else 2.0
        compiling(None, ())
    assert said[:3] == [
        "fp8_gemm: 40 of 200 compiled, about 0:20 left",
        "fp8_gemm: 80 of 200 compiled, about 0:15 left",
        "fp8_gemm: 90 of 200 compiled, about 0:36 left",
    ]
    assert [line.split()[1] for line in said] == ["40", *(str(n) for n in range(80, 200, 10))]


def test_compiling_a_few_candidates_quickly_says_nothing():
    said = []
    compiling = Compiling("route", 3, said.append, lambda: 0.0)
    for _ in range(3):
        compiling(None, ())
    assert said == []


def test_minutes():
    assert [minutes(s) for s in (0.9, 59.9, 60, 3725)] == ["0:00", "0:59", "1:00", "62:05"]


def test_reading_says_how_much_is_left_not_more_often_than_can_be_read():
    said, now = [], [0.0]
    reading = Reading("weights", 8_000_000_000, said.append, lambda: now[0])
    for _ in range(8):
        now[0] += 3
        reading(1_000_000_000)
    assert said == [
        "weights: 2.000 of 8.000 billion values, about 0:18 left",
        "weights: 4.000 of 8.000 billion values, about 0:12 left",
        "weights: 6.000 of 8.000 billion values, about 0:06 left",
    ]


def test_training_says_loss_speed_and_time_left_every_few_seconds():
    said, now, asked = [], [0.0], []
    told = Training("mtp-v3", 100, 1024, said.append, lambda: now[0])

    def loss():
        asked.append(now[0])
        return 1.5

    for done in range(41, 101):  # gone on with after step 40
        now[0] += 1.0
        told(done, loss)
    assert said[0] == "    mtp-v3: step 46 of 100, loss 1.500 nats, 1,024 tokens/s, about 0:54 left"
    assert [line.split()[2] for line in said] == [str(n) for n in range(46, 100, 5)]
    assert len(asked) == len(said)  # to read a loss is to wait for a GPU


def test_streaming_says_layers_bytes_rate_and_time_left():
    said, now = [], [0.0]
    told = Layers("v3", 10, 20_000_000_000, said.append, lambda: now[0])
    for done in range(1, 11):
        now[0] += 4.0
        told(done, done * 2_000_000_000)
    assert said[0] == "v3: 2 of 10 layers and tables, 4.0 of 20.0 GB, 0.50 GB/s, about 0:32 left"
    assert [line.split()[1] for line in said] == ["2", "4", "6", "8"]
