"""The report on layers, predictions, training loss and kinds of attention: what records become."""

from __future__ import annotations

import json

import pytest
from v3bench.suite.ledger import cases
from v3bench.suite.report import budget_view, layer_chart, pareto_chart
from v3bench.suite.report.bundle import available

TRAINED = "trained on 61440 tokens of stdlib abc"
drawn = pytest.mark.skipif(not available(), reason="altair is not installed")


@pytest.fixture
def made(record):
    """A record as the benchmarks keep it."""

    def one(case, subject, impl, metric, samples, convention=""):
        area, version = cases.load()[case].area, cases.load()[case].version
        return record(
            area=area, case=case, case_version=version, subject=subject, impl=impl, metric=metric,
            samples=tuple(samples), convention=convention, clock="none", scale="proxy",
        )  # fmt: skip

    return one


@pytest.fixture
def layer_records(made):
    return [
        made("layers-v3", "proxy.v3-2m", impl, metric, [value], f"{place}; {TRAINED}")
        for impl, error, cosine in (("fp8", 0.0301, 0.9997), ("control-2-bit", 0.0602, 0.994))
        for place in ("layers.0.attn.w_o; dgrad", "layers.0.attn.w_o; forward", "states; behind layer 0")
        for metric, value in (("relative_error", error), ("cosine", cosine))
    ]


def test_each_product_is_a_row_and_each_recipe_a_column(layer_records):
    products, directions, states, turned = layer_chart.product_tables(layer_chart.errors(layer_records), "")
    assert [column.label for column in products.columns] == ["Weight", "Product", "fp8, %", "control-2-bit, %"]
    assert products.cells == [
        ["layers.0.attn.w_o", "forward", "3.01", "6.02"], ["layers.0.attn.w_o", "dgrad", "3.01", "6.02"],
    ]  # fmt: skip
    assert directions.caption == "Direction of each product, v3-2m"
    assert [column.label for column in directions.columns][2:] == ["fp8, 1 − cosine", "control-2-bit, 1 − cosine"]
    assert directions.cells[0] == ["layers.0.attn.w_o", "forward", "0.000300", "0.00600"]
    assert states.cells == [["behind layer 0", "3.01", "6.02"]]
    assert turned.cells == [["behind layer 0", "0.000300", "0.00600"]]


def test_without_cosines_there_is_no_direction(layer_records):
    errors = [m for m in layer_records if m.metric != "cosine"]
    captions = [table.caption for table in layer_chart.product_tables(layer_chart.errors(errors), "")]
    assert captions == ["Error of each product, v3-2m", "Error of the states, v3-2m"]
    assert layer_chart.product_tables(layer_chart.errors([]), "") == []


@drawn
def test_the_map_draws_v3_s_recipe_and_no_states(layer_records):
    drawing = layer_chart.heat_map(layer_chart.errors(layer_records), "", "")
    assert drawing is not None
    text = json.dumps(drawing.spec)
    assert "v3-2m: 0.attn.w_o" in text
    assert "behind layer" not in text
    assert '"percent": 6.02' not in text
    assert layer_chart.heat_map(layer_chart.errors([]), "", "") is None


def test_predictions_are_a_row_a_recipe(made):
    metrics = {"kl_divergence": 0.00234, "top1_flips": 0.015, "perplexity_ratio": 1.0012, "perplexity": 12.3}
    records = [made("logits-v3", "proxy.v3-2m", "fp8", name, [value], TRAINED) for name, value in metrics.items()]
    table = layer_chart.logits_table(records, "")
    assert "bf16 in bfloat16 throughout, of the others the products alone, all else in float32" in table.note
    assert table.cells == [["v3-2m", "fp8", "2.34", "1.50", "1.00120", "12.3"]]


def test_recorded_activations_show_the_median_and_the_worst(made):
    about = f"root mean square; activations of v3-2m, {TRAINED}"
    records = [
        made("recorded-v3", "quantiser.e4m3-1x128", "torch", "relative_error", [0.02, 0.0301, 0.0502], about),
        made("recorded-v3", "quantiser.e4m3-1x128", "torch", "flushed", [0.0, 0.0, 0.001], about),
    ]
    cells = layer_chart.recorded_table(records, "").cells
    assert cells == [["v3-2m", "e4m3-1x128", "3", "3.01", "5.02", "0", "0.100"]]


GAPS = {"bf16": (0.0001, -0.0002, 0.0002), "fp8": (0.0001, 0.0002, 0.0000), "control-2-bit": (0.004, 0.005, 0.006)}


@pytest.fixture
def kinds(made):
    values = {"mha": (768, 2.1), "gqa": (384, 2.0), "mqa": (192, 2.2), "mla": (288, 2.05)}
    records = []
    for name, (nbytes, loss) in values.items():
        records.append(made("kv-variants-cache", f"proxy.{name}", "torch", "kv_bytes_per_token", [nbytes], "bf16"))
        seeds = [loss - 0.01, loss + 0.01, loss]
        records.append(made("kv-variants-quick", f"proxy.{name}", "torch", "held_out_loss", seeds))
    return records


def test_what_nothing_beats_in_both_is_told_apart(kinds):
    frame = pareto_chart.variants(kinds)
    assert dict(zip(frame["kind"], pareto_chart.unbeaten(frame), strict=True)) == {
        "mha": False, "gqa": True, "mqa": True, "mla": True,
    }  # fmt: skip
    table = pareto_chart.variant_table(frame, "kv-variants-quick", "")
    assert table.cells[0][:7] == ["mha", "768", "2.100", "2.090", "2.110", "3", "no"]


def test_kinds_that_seeds_do_not_tell_apart_are_said_to_be_alike(made):
    losses = {
        "mha": (768, (2.10, 2.00, 2.20)), "gqa": (384, (2.11, 1.98, 2.21)), "mla": (384, (2.31, 2.18, 2.41)),
        "mqa": (192, (2.12, 2.02, 2.22)),
    }  # fmt: skip
    records = []
    for name, (nbytes, loss) in losses.items():
        records.append(made("kv-variants-cache", f"proxy.{name}", "torch", "kv_bytes_per_token", [nbytes], "bf16"))
        records.append(made("kv-variants-quick", f"proxy.{name}", "torch", "held_out_loss", loss))
    table = pareto_chart.variant_table(pareto_chart.variants(records), "kv-variants-quick", "")
    front = {cells[0]: cells[6] for cells in table.cells}
    assert front == {
        "mha": "not told apart from gqa", "gqa": "not told apart from mqa", "mla": "no", "mqa": "yes",
    }  # fmt: skip
    apart = [type(m)(**{**vars(m), "convention": f"corpus {m.subject}"}) for m in records if "loss" in m.metric]
    table = pareto_chart.variant_table(pareto_chart.variants(records[::2] + apart), "kv-variants-quick", "")
    assert {cells[6] for cells in table.cells} == {"yes"}
    assert "different texts" in table.note
    few = [type(m)(**{**vars(m), "samples": m.samples[:2]}) for m in records]
    table = pareto_chart.variant_table(pareto_chart.variants(few), "kv-variants-quick", "")
    assert table.cells[1][6] == "not told apart from mla and mqa"
    assert "fewer than 3" in table.note


@drawn
def test_a_run_with_kinds_of_attention_has_a_chapter(kinds, run_of):
    (part,) = pareto_chart.variant_parts([run_of(*kinds)], "no charts")
    assert [table.caption for table in part["tables"]] == ["Held-out loss and cache, kv-variants-quick"]
    assert len(part["charts"]) == 1
    assert pareto_chart.variant_parts([run_of()], "no charts") == []


def test_the_chapter_on_fp8_holds_all_levels(layer_records, made, run_of):
    records = [made("loss-gap-quick", f"proxy.{name}", "emulated", "loss_gap", gap) for name, gap in GAPS.items()]
    (part,) = budget_view.budget_parts([run_of(*layer_records, *records)], "no charts")
    captions = [table.caption for table in part["tables"]]
    shape = cases.load()["loss-gap-quick"].shape
    where = f"the last {shape['steps']} of {shape['shared'] + shape['steps']} steps"
    assert captions[-5:] == [
        "Error of each product, v3-2m", "Direction of each product, v3-2m",
        "Error of the states, v3-2m", "Direction of the states, v3-2m",
        f"Gap of training loss over {where}, loss-gap-quick",
    ]  # fmt: skip
    assert len(part["charts"]) == (3 if available() else 0)
