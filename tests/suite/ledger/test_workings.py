"""Derivations worked out: published examples, text that cannot drift from the value, marks that are passed on."""

import re

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import derivations, workings
from v3bench.suite.ledger.derivations import Derivation, Input
from v3bench.suite.ledger.workings import work_out


def shown(name, step, variant=""):
    return work_out(name, variant).steps[step].shown


def test_everything_can_be_worked_out():
    for name, derivation in derivations.load().items():
        for variant in ["", *derivation.variants]:
            worked = work_out(name, variant)
            assert list(worked.steps) == [step for step, _, _ in derivation.steps]


@pytest.mark.parametrize(
    "name, variant, step, value",
    [
        ("kv-mla", "", "per_token", 70_272),
        ("kv-gqa", "", "per_token", 516_096),
        ("kv-gqa", "qwen2-5-72b", "per_token", 327_680),
        ("kv-mla", "deepseek-v2", "per_token", 69_120),
        ("kv-mla", "deepseek-v2-lite", "per_token", 31_104),
        ("kv-gqa", "llama-3-1-8b", "per_token", 131_072),
        ("kv-gqa", "qwen2-5-7b", "per_token", 57_344),
        ("kv-mha-same-model", "", "per_token", 3_997_696),
        ("kv-mha-same-model", "rope-key", "per_token", 4_997_120),
        ("tpot-paper", "", "bytes", 6_048_000),
        ("topology-df", "", "local_links", 253_456),
        ("topology-df", "", "global_links", 130_816),
        ("topology-df", "", "balanced_groups", 513),
        ("topology-df", "", "groups", 511),
        ("topology-df", "from-endpoints", "groups", 511),
        ("topology-sf", "", "q", 28),
        ("topology-sf", "", "radix", 63),
        ("tpot-inputs", "", "devices", 257),
        ("training-parallelism", "", "micro_batches", 120),
        ("logfmt", "", "steps", 126),
        ("logfmt", "bits-10", "steps", 510),
    ],
)
def test_whole_numbers_are_exact(name, variant, step, value):
    assert shown(name, step, variant) == value


@pytest.mark.parametrize(
    "name, variant, step, value, unit",
    [
        ("tpot-paper", "", "comm", 120.96, "us"),
        ("tpot-paper", "", "layer", 241.92, "us"),
        ("tpot-paper", "", "tpot", 14.75712, "ms"),
        ("tpot-paper", "nvl72", "tpot", 0.81984, "ms"),
        ("tpot-paper", "nvl72", "rate", 1219.75, "tok/s"),
        ("tpot-paper", "hidden-7168", "comm", 123.863, "us"),
        ("tpot-paper", "hidden-7168", "tpot", 15.1113, "ms"),
        ("tpot-paper", "hidden-7168", "rate", 66.18, "tok/s"),
        ("tpot-paper", "nvl72-hidden-7168", "rate", 1191.2, "tok/s"),
        ("tpot-paper", "moe-layers", "tpot", 14.368, "ms"),
        ("tpot-paper", "moe-layers", "rate", 69.60, "tok/s"),
        ("tpot-paper", "effective-link", "comm", 154.83, "us"),
        ("tpot-paper", "effective-link", "rate", 52.94, "tok/s"),
        ("tpot-paper", "scales", "comm", 125.153, "us"),
        ("tpot-paper", "scales", "tpot", 15.2687, "ms"),
        ("tpot-paper", "latency-ib", "tpot", 15.4403, "ms"),
        ("tpot-paper", "latency-ib-cross", "tpot", 15.6599, "ms"),
        ("tpot-paper", "latency-roce-cross", "tpot", 16.1235, "ms"),
        ("flops-paper", "", "n", 36.5182, "billion params"),
        ("flops-paper", "", "train_causal", 249.811, "GFLOP"),
        ("flops-paper", "", "train_full", 280.514, "GFLOP"),
        ("flops-paper", "deepseek-v2", "train_causal", 155.014, "GFLOP"),
        ("flops-megatron", "", "total", 2447.85, "GFLOP"),
        ("flops-megatron", "qwen2-5-72b", "total", 394.02, "GFLOP"),
        ("flops-megatron", "", "with_attention", 2549.3, "GFLOP"),
        ("flops-config", "llama-3-1-405b", "train_causal", 2473.2, "GFLOP"),
        ("flops-config", "qwen2-5-72b", "train_causal", 444.86, "GFLOP"),
        ("flops-rejected", "", "six_total", 2435.1, "GFLOP"),
        ("flops-rejected", "qwen2-5-72b", "six_total", 436.2, "GFLOP"),
        ("flops-rejected", "", "six_with_head", 2422.5, "GFLOP"),
        ("training-rate", "", "mfu_full", 43.728, "%"),
        ("training-rate", "mrft", "mfu_causal", 38.903, "%"),
        ("training-rate", "router", "mfu_causal", 39.041, "%"),
        ("training-rate", "mtp", "mfu_causal", 40.531, "%"),
        ("overview-day", "", "nodes", 226.864, "node"),
        ("overview-day", "", "prefill_flops", 295.24, "TFLOP/s"),
        ("memory-growth", "", "demand", 1924.85, "%"),
        ("profile-train", "", "rate", 508.55, "TFLOP/s"),
    ],
)
def test_published_examples(name, variant, step, value, unit):
    worked = work_out(name, variant).steps[step]
    assert worked.shown == pytest.approx(value, rel=1e-4)
    assert worked.value.unit == unit


def test_two_ways_to_count_the_paper_s_flops_agree():
    """The paper's accounting from config fields, and the law's count, differ by the router and by half the diagonal."""
    router = 6 * 58 * 256 * 7168 / 1e9
    diagonal = 3 * 61 * 2 * 128 * (192 + 128) / 2 / 1e9
    difference = shown("flops-config", "train_causal") - shown("flops-paper", "train_causal")
    assert difference == pytest.approx(router + diagonal, rel=1e-6)


def test_the_text_of_a_step_holds_its_numbers():
    step = work_out("tpot-paper").steps["comm"]
    assert step.text == "comm = bytes / link + 2 * latency = 6048000 B / (50 GB/s) + 2 * 0 us = 120.96 us"


def test_text_and_value_come_from_the_same_data():
    """Where every number is put in as a whole one, reading the text back gives the value."""
    step = work_out("topology-df").steps["links"]
    assert eval(re.sub(r"[^0-9+ ]", "", step.filled)) == step.shown


def test_a_law_shows_its_model():
    assert work_out("params", "deepseek-v2").steps["total"].filled == "params_total(deepseek-v2)"


@pytest.mark.parametrize("variant", ["", *derivations.load()["tpot-paper"].variants])
def test_every_variant_of_the_bound_keeps_two_micro_batches_and_one_token_a_step(variant):
    steps = work_out("tpot-paper", variant).steps
    assert steps["layer"].value.quantity.value == pytest.approx(2 * steps["comm"].value.quantity.value)
    assert steps["rate"].value.quantity.value == pytest.approx(1 / steps["tpot"].value.quantity.value)


@pytest.mark.parametrize(
    "variant, milliseconds",
    [("", 14.7571), ("hidden-7168", 15.1113), ("moe-layers", 14.3681), ("effective-link", 18.8891), ("nvl72", 0.81984)],
)
def test_the_bound_under_other_inputs(variant, milliseconds):
    assert work_out("tpot-paper", variant).steps["tpot"].shown == pytest.approx(milliseconds, rel=1e-5)


def test_marks_are_passed_on():
    assert work_out("tpot-memory-bound").steps["rate"].value.remembered
    assert not work_out("tpot-memory-bound").steps["bytes"].value.remembered
    assert work_out("flops-megatron").steps["total"].value.inferred
    assert not work_out("tpot-paper").steps["tpot"].value.remembered
    assert work_out("training-rate").steps["mfu_full"].value.claims >= {"deployment-step-time-mpft", "deployment-gpus"}


def worked(monkeypatch, **made):
    monkeypatch.setattr(
        workings, "load", lambda: {name: Derivation(name=name, title=name, **body) for name, body in made.items()}
    )
    workings._work_out.cache_clear()
    return lambda name: workings.work_out(name)


def test_a_circle_is_refused(monkeypatch):
    a = {"inputs": {"x": Input(step="b.y")}, "steps": (("y", "x", "1"),)}
    b = {"inputs": {"x": Input(step="a.y")}, "steps": (("y", "x", "1"),)}
    with pytest.raises(BadInput, match="leans on itself"):
        worked(monkeypatch, a=a, b=b)("a")


def test_a_result_of_another_kind_is_refused(monkeypatch):
    body = {"inputs": {"x": Input(value=1, unit="B", source="x")}, "steps": (("y", "x * x", "B"),)}
    with pytest.raises(BadInput, match=r"step y: result is not in B"):
        worked(monkeypatch, a=body)("a")


@pytest.mark.parametrize(
    "given, what",
    [
        (Input(config="hidden_sise"), "config field 'hidden_sise'"),
        (Input(config="rope_scaling"), "config field"),
        (Input(step="kv.y"), "derivation 'kv'"),
        (Input(step="a.z"), "leans on itself"),
        (Input(claim="tpot-ibb"), "claim 'tpot-ibb'"),
        (Input(claim="mtp-acceptance-isca"), "prints a range"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(monkeypatch, given, what):
    body = {"model": "deepseek-v3", "inputs": {"x": given}, "steps": (("y", "x", "1"),)}
    with pytest.raises(BadInput, match=what):
        worked(monkeypatch, a=body)("a")


@pytest.fixture(autouse=True)
def fresh():
    yield
    workings._work_out.cache_clear()
