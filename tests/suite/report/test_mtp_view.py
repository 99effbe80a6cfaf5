"""The chapter on MTP: the byte model without a run, a run's records where there are some, nothing made up."""

from __future__ import annotations

import json
import math

import pytest
from v3bench.suite import models
from v3bench.suite.laws import speculation
from v3bench.suite.laws.speculation import Deployment
from v3bench.suite.ledger import cases
from v3bench.suite.ledger.cases import Case
from v3bench.suite.mtp import conventions as said
from v3bench.suite.mtp.interval import over_files
from v3bench.suite.report import mtp_view, speculation_chart
from v3bench.suite.report.bundle import available
from v3bench.suite.report.context import page_context
from v3bench.suite.report.display import MISSING

V3, LARGE, DENSE = said.SUBJECTS
ABOUT = "trained on 409600 tokens; corpus abc"
BENCHES = ("acceptance", "floor", "learning", "balance", "speculation", "parts", "released")
draws = pytest.mark.skipif(not available(), reason="charts need altair")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """A case for each benchmark, so that these tests hold whatever cases there are."""
    made = {
        f"case-{bench}": Case(
            name=f"case-{bench}", area="mtp", bench=bench, metric="acceptance_rate", basis="measured", version=2,
            subjects=said.SUBJECTS, profiles=("quick",), why="w", shape={},
        )
        for bench in BENCHES
    }  # fmt: skip
    there = cases.load()
    monkeypatch.setattr(cases, "load", lambda: {**there, **made})


@pytest.fixture
def mtp(record):
    """A record of the area as the benchmarks keep it."""

    def made(bench, metric, convention, *samples, subject=V3, impl=said.MODEL, **fields):
        given = {"area": "mtp", "case": f"case-{bench}", "case_version": 2, "clock": "none", "scale": "proxy"}
        given |= {"metric": metric, "convention": convention, "subject": subject, "impl": impl, "samples": samples}
        return record(**{**given, **fields})

    return made


@pytest.fixture
def spoken(mtp):
    """What a timed case of one model and batch leaves."""

    def made(subject=V3, batch=1, impl="float32", bound=1.8, step=1.2, draft=0.1, measured=(1.2, 1.3, 1.4)):
        def one(metric, convention, *samples):
            return mtp("speculation", metric, convention, *samples, subject=subject, impl=impl)

        return [
            one("tokens_per_second", said.plain(batch), 100.0, 102.0),
            one("tokens_per_second", said.drafting(1, batch), 130.0),
            one("acceptance_rate", said.in_generation(1, batch), 0.8),
            one("acceptance_rate", said.in_generation(2, batch), 0.5),
            one("distinct_3grams", said.generated(batch), 0.42),
            one("tokens_per_step", said.drafting(1, batch), bound),
            one("step_cost", said.batched(said.TWO_TOKEN_STEP, batch), step),
            one("step_cost", said.batched(said.DRAFT, batch), draft),
            one("speed_up", said.batched(said.MEASURED, batch), *measured),
            one("speed_up", said.batched(said.BOUND, batch), bound),
            one("speed_up", said.batched(said.FROM_PARTS, batch), bound / (step + draft)),
        ]

    return made


def tables(*runs):
    (part,) = mtp_view.mtp_parts(runs, "no charts")
    return {table.caption: table for table in part["tables"]}


def rows(table):
    """Each row's cells by their column's heading."""
    heads = [column.label for column in table.columns]
    return [dict(zip(heads, cells, strict=True)) for cells in table.cells]


def test_without_a_run_there_is_the_model():
    (part,) = mtp_view.mtp_parts([], "")
    assert "No run here has records of MTP" in part["text"]
    gained, needed, with_flops, needed_with_flops = part["tables"]
    first = rows(gained)[0]
    assert first["Requests a GPU"] == "1"
    assert (first["EP1"], first["EP8"], first["EP144"]) == ("1.16", "1.25", "1.67")
    assert rows(needed)[0]["EP1, %"] == rows(needed)[0]["EP8, %"] == MISSING, "no acceptance is enough"
    assert next(row for row in rows(needed) if row["Requests a GPU"] == "32")["EP144, %"] == "94.5"
    assert float(rows(with_flops)[-1]["EP144"]) < 1.1 < float(rows(gained)[-1]["EP144"])
    assert rows(needed_with_flops)[-1]["EP144, %"] == MISSING
    assert [row["Requests a GPU"] for row in rows(gained)] == [str(batch) for batch in speculation_chart.BATCHES]


def test_a_run_without_the_area_adds_nothing(run):
    assert list(tables(run)) == list(tables())
    assert "No run here has records of MTP" in mtp_view.mtp_parts([run], "")[0]["text"]


def test_a_released_checkpoint_reads_as_no_proxy(mtp, run_of):
    about = "8 files in windows of 256 tokens; corpus 0123456789ab; DeepSeek-V3"
    convention, released = said.teacher_forced(1, about), {"subject": "deepseek-v3", "scale": "full"}
    run = run_of(mtp("released", "acceptance_rate", convention, 0.8, 0.9, **released))
    note = tables(run)["Teacher-forced acceptance, deepseek-v3"].note
    assert note.endswith(f"At scale full, on {about}.")
    assert "proxy" not in note.lower()


def test_balance_is_of_two_trainings(mtp, run_of):
    run = run_of(*(mtp("balance", "max_violation", said.balance(1, ABOUT, bias=bias), 1.0) for bias in (True, False)))
    assert "two models after the same first steps" in tables(run)["Expert load, max_violation"].note


def test_acceptance_stands_with_its_interval_floors_and_accuracy(mtp, run_of):
    files, code = (0.8, 0.82, 0.87, 0.79), (0.7, 0.72)
    run = run_of(
        mtp("acceptance", "acceptance_rate", said.teacher_forced(1, ABOUT), *files),
        mtp("acceptance", "acceptance_rate", said.teacher_forced(2, ABOUT), 0.6, 0.62),
        mtp("acceptance", "acceptance_rate", said.teacher_forced(1, ABOUT, temperature=0.7), 0.75, 0.77),
        mtp("acceptance", "acceptance_rate", said.teacher_forced(1, ABOUT, text="code"), *code),
        mtp("acceptance", "draft_accuracy", said.accuracy(1, ABOUT), 0.5, 0.51),
        mtp("floor", "acceptance_rate", said.teacher_forced(1, ABOUT), 0.11, 0.13, impl=said.MOST_FREQUENT),
        mtp("floor", "acceptance_rate", said.teacher_forced(1, ABOUT), 0.4, 0.42, impl=said.LOOK_UP),
        mtp("learning", "acceptance_rate", said.after(10, ABOUT), 0.99),
        mtp("acceptance", "acceptance_rate", said.teacher_forced(1, ABOUT), 0.9, subject=DENSE),
    )
    found = tables(run)
    module, second, on_code, floor, looked_up = rows(found[f"Teacher-forced acceptance, {V3}"])
    assert (module["Drafter"], module["Text"], module["Draft"]) == ("MTP module", "all text", "1")
    assert module["Accepted, %"] == "82.0"
    assert module["95 % interval, %"] == f"{100 * over_files(files).low:.1f} to {100 * over_files(files).high:.1f}"
    assert module["At temperature 0.7, %"] == "76.0"
    assert module["True token, %"] == "50.5"
    assert (second["Draft"], second["Accepted, %"], second["True token, %"]) == ("2", "61.0", MISSING)
    assert (on_code["Text"], on_code["Accepted, %"]) == ("code", "71.0")
    assert (floor["Drafter"], floor["Accepted, %"]) == ("most frequent token", "12.0")
    assert (looked_up["Drafter"], looked_up["Accepted, %"]) == ("n-gram look-up", "41.0")
    (dense,) = rows(found[f"Teacher-forced acceptance, {DENSE}"])
    assert dense["95 % interval, %"] == MISSING, "of one file there is none"
    assert ABOUT in found[f"Teacher-forced acceptance, {V3}"].note
    assert "Acceptance against training steps" in found


def test_bits_per_byte_stand_beside_the_n_gram_s(mtp, run_of):
    run = run_of(
        mtp("acceptance", "bits_per_byte", said.held_out(ABOUT), 2.0, 2.1, 2.2),
        mtp("floor", "bits_per_byte", said.held_out(ABOUT), 2.3, 2.3, 2.3, impl=said.NGRAM),
    )
    (row,) = rows(tables(run)["Bits per byte"])
    assert (row["Bits per byte"], row["Order-5 n-gram"], row["Less than it"]) == ("2.100", "2.300", "0.200")
    assert row["Text and model"] == ABOUT
    assert row["Files"] == "3"


def test_a_speed_up_is_taken_apart_to_the_last_bit(spoken, run_of):
    run = run_of(*spoken(), *spoken(DENSE, step=1.0, measured=(1.7,)))
    v3, dense = rows(tables(run)["Speed-up taken apart, case-speculation"])
    assert (v3["Model"], v3["1 + acceptance"], v3["Measured"]) == (V3, "1.80", "1.30")
    assert (v3["Step loses"], v3["Draft loses"], v3["Unexplained"]) == ("0.30", "0.12", "0.08")
    assert v3["Rounds"] == "1.20 to 1.40"
    assert (dense["Step loses"], dense["Unexplained"]) == ("0.00", "−0.06"), "more than the parts explain"
    assert dense["Rounds"] == MISSING


def test_what_is_not_whole_is_told_and_not_drawn(spoken, run_of):
    part = [m for m in spoken() if not m.convention.startswith(said.TWO_TOKEN_STEP)]
    (row,) = rows(tables(run_of(*part))["Speed-up taken apart, case-speculation"])
    assert (row["Measured"], row["Step"], row["Unexplained"]) == ("1.30", MISSING, MISSING)
    (chapter,) = mtp_view.mtp_parts([run_of(*part)], "")
    assert not [drawing for drawing in chapter["charts"] if "waterfall" in drawing.id]


def test_generation_stands_beside_its_repetition(spoken, run_of):
    (row,) = rows(tables(run_of(*spoken(batch=4)))["Acceptance in generation"])
    assert (row["Batch"], row["Draft 1, %"], row["Draft 2, %"]) == ("4", "80.0", "50.0")
    assert (row["Distinct 3-grams, %"], row["Tokens a step, D = 1"]) == ("42.0", "1.80")


def test_learning_and_balance(mtp, run_of):
    run = run_of(
        mtp("learning", "acceptance_rate", said.after(200, ABOUT), 0.6, 0.7),
        mtp("learning", "acceptance_rate", said.after(20, "trained on 40960 tokens"), 0.9),
        mtp("learning", "bits_per_byte", said.after(200, ABOUT), 2.5),
        mtp("balance", "max_violation", said.balance(1, ABOUT, bias=True), 0.3),
        mtp("balance", "max_violation", said.balance(1, ABOUT, bias=False), 1.5),
    )
    found = tables(run)
    early, late = rows(found["Acceptance against training steps"])
    assert (early["Steps"], early["Acceptance, %"], early["Bits per byte"]) == ("20", "90.0", MISSING)
    assert f"At the end {ABOUT}." in found["Acceptance against training steps"].note
    assert (late["Steps"], late["Acceptance, %"], late["Bits per byte"]) == ("200", "65.0", "2.500")
    (layer,) = rows(found["Expert load, max_violation"])
    assert (layer["Layer"], layer["With bias"], layer["Without"]) == ("1", "0.30", "1.50")


def test_records_of_another_version_are_left_out(mtp, run_of):
    old = mtp("acceptance", "acceptance_rate", said.teacher_forced(1, ABOUT), 0.8, case_version=1)
    assert list(tables(run_of(old))) == list(tables())


def test_two_runs_are_told_apart(mtp, run_of):
    one = run_of(mtp("learning", "acceptance_rate", said.after(20, ABOUT), 0.9))
    assert {"Acceptance against training steps, run 1", "Acceptance against training steps, run 2"} <= set(
        tables(one, one)
    )


@draws
def test_the_charts_hold_the_tables_numbers(spoken, mtp, run_of):
    run = run_of(*spoken(), *spoken(DENSE), mtp("learning", "acceptance_rate", said.after(20, ABOUT), 0.9))
    (part,) = mtp_view.mtp_parts([run], "")
    drawings = {drawing.id: drawing for drawing in part["charts"]}
    waterfall = "mtp-waterfall-case-speculation-float32-1"
    assert list(drawings) == ["mtp-model-bytes", "mtp-model-h800", "mtp-learning", waterfall]
    bars = [one for data in drawings[waterfall].spec["datasets"].values() for one in data if one.get("subject") == V3]
    ends = {bar["stage"]: (bar["low"], bar["high"]) for bar in bars}
    assert ends == {
        "1 + acceptance": (0, 1.8), "two-token step": (1.5, 1.8), "draft": (1.3846, 1.5), "unexplained": (1.3, 1.3846),
        "measured": (0, 1.3),
    }  # fmt: skip
    assert [bar["text"] for bar in bars] == ["1.80", "−0.30", "−0.12", "−0.08", "1.30"]
    config = models.load("deepseek-v3")[1]
    for kind, ridge in (("bytes", None), ("h800", speculation_chart.ridge("h800"))):
        points = [one for data in drawings[f"mtp-model-{kind}"].spec["datasets"].values() for one in data]
        drawn = {(one.get("series"), one["batch"]): one["speed_up"] for one in points}
        where = Deployment(ep=8, batch=16)
        ratio = speculation.step_ratio(config, where, ridge=ridge)
        want = 1.85 / (ratio + speculation.draft_cost(config, where, ridge=ridge))
        assert math.isclose(drawn["EP8", 16], want, rel_tol=1e-12)
        assert {one["text"] for one in points if "text" in one} == {
            "1 + acceptance: 1.85", "published: 1.8", "plain decoding",
        }  # fmt: skip
    assert '"url"' not in json.dumps(drawings["mtp-model-bytes"].spec, allow_nan=False)


def test_full_size_parts_stand_beside_the_byte_model(mtp, run_of):
    def part(impl, *samples, metric="step_cost", convention=None, **fields):
        about = convention or said.two_over_one(1, 4096, *([said.ep_share(1)] if impl == said.EXPERTS else []))
        given = {"subject": "deepseek-v3", "impl": impl, "scale": "slice", "precision": "bfloat16", **fields}
        return mtp("parts", metric, about, *samples, **given)

    run = run_of(
        part(said.EXPERTS, 2.1, 2.0, 2.2),
        part(said.EXPERTS, 2e12, metric="byte_rate", convention=said.step_of(2, 1, 4096, said.ep_share(1))),
        part(said.EXPERTS, 1e12, metric="byte_rate", convention=said.step_of(1, 1, 4096, said.ep_share(1))),
        part(said.EXPERTS, 1.02, convention=said.two_over_one(32, 4096, said.ep_share(144))),
        part(said.MLA, *[1.1] * 5, 1.2),
        part(said.HEAD, 1.5, convention=said.two_over_one(1, 4096, said.split(4))),
        device="cuda", gpus=[{"name": "NVIDIA H200"}],
    )  # fmt: skip
    attention, one_gpu, shared, head = rows(tables(run)["Two tokens over one, full-size parts"])
    assert (attention["Part"], attention["Two tokens over one"]) == ("attention and its cache", "1.10")
    assert (attention["95 %"], attention["By bytes"]) == ("1.10 to 1.20", "1.00")
    assert (one_gpu["Experts"], one_gpu["Two tokens over one"], one_gpu["By bytes"]) == ("EP1", "2.10", "1.97")
    assert one_gpu["95 %"] == MISSING, "of three samples there is none"
    assert (one_gpu["Rate, GB/s"], one_gpu["Of reading, %"]) == ("2,000", "42")  # of 4.8 TB/s
    assert (shared["Experts"], shared["Requests a GPU"], shared["By bytes"]) == ("EP144", "32", "1.00")
    assert (head["Part"], head["Rate, GB/s"]) == ("head", MISSING)


@draws
def test_one_training_is_one_line(mtp, run_of):
    steps = [mtp("learning", "acceptance_rate", said.after(n, f"trained on {64 * n} tokens"), 0.5) for n in (10, 20)]
    (part,) = mtp_view.mtp_parts([run_of(*steps)], "")
    rows = [one for data in part["charts"][2].spec["datasets"].values() for one in data]
    assert len({one["line"] for one in rows}) == 1
    assert [one["steps"] for one in rows] == [10, 20]


def test_an_interval_of_shares_ends_at_all(mtp, run_of):
    run = run_of(mtp("acceptance", "acceptance_rate", said.teacher_forced(1, ABOUT), 0.5, 1.0, 1.0))
    (row,) = rows(tables(run)[f"Teacher-forced acceptance, {V3}"])
    assert row["95 % interval, %"] == "11.6 to 100.0"


@draws
def test_a_gain_that_the_parts_do_not_explain_is_drawn_as_one(spoken, run_of):
    (part,) = mtp_view.mtp_parts([run_of(*spoken(measured=(1.5,)))], "")
    (bars,) = [
        data for drawing in part["charts"] if "waterfall" in drawing.id for data in drawing.spec["datasets"].values()
        if "stage" in data[0]
    ]  # fmt: skip
    bar = next(bar for bar in bars if bar["stage"] == "unexplained")
    assert (bar["low"], bar["high"], bar["text"]) == (1.3846, 1.5, "+0.12")


def test_the_chapter_is_on_the_page_once_and_no_anchor_twice(run, judged):
    found = page_context([run], judged)
    assert {"id": "mtp-drafting", "title": "Multi-token prediction"} in found["contents"]
    anchors = [part["id"] for part in found["model_parts"]]
    anchors += [drawing.id for part in found["model_parts"] for drawing in part["charts"]]
    anchors += [one.claim.id for one in judged]
    assert len(set(anchors)) == len(anchors)
