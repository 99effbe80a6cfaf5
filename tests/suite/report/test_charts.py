"""Charts hold the frames' numbers, in the page's own colours, and name a version of Vega-Lite that the bundle reads."""

import json

import pytest

pytest.importorskip("altair", reason="charts need altair")

from v3bench.suite.report import charts, model_tables


@pytest.fixture(scope="module")
def described():
    return model_tables.descriptions()


def values_of(spec):
    """Every row of every data set in a specification."""
    return [row for rows in spec["datasets"].values() for row in rows]


def test_cache_chart_holds_every_released_model_and_no_proxy(described, judged):
    rows = values_of(charts.kv_per_token(described, judged).spec)
    assert {row["model"] for row in rows} == set(model_tables.released(described))
    drawn = {(row["model"], row["series"]): row["value"] for row in rows}
    assert (
        drawn["deepseek-v3", "formula"]
        == drawn["deepseek-v3", "published"]
        == drawn["deepseek-v3", "counted"]
        == 70.272
    )


def test_sequence_chart_goes_from_4k_to_128k(described):
    rows = values_of(charts.kv_per_sequence(described).spec)
    assert {row["length"] for row in rows} == {"4K", "8K", "16K", "32K", "64K", "128K"}
    assert any(row["model"] == "deepseek-v3" and row["value"] == 70272 * 131072 / 1e9 for row in rows)


def test_flops_chart_sets_published_beside_one_accounting(described, judged):
    (drawing,) = charts.flops_charts(described, judged)
    drawn = {(row["model"], row["series"]): row["value"] for row in values_of(drawing.spec)}
    for model in ("deepseek-v3", "llama-3.1-405b"):
        assert drawn[model, "published"] > 0
        assert drawn[model, "training, causal (formula)"] == described[model]["gflops_per_token"]["train_causal"]


def test_a_proxys_value_is_not_drawn_as_the_model(record, run_of, described):
    from v3bench.suite.ledger import claims, verdict

    small = record(
        area="kv_cache",
        metric="kv_bytes_per_token",
        convention="bf16",
        subject="deepseek-v3",
        samples=(17.0,),
        basis="counted",
    )
    judged = verdict.judge(claims.load(), run_of(small).measurements)
    frame = charts.stated(judged, "kv_bytes_per_token", 1.0)
    assert 17.0 not in frame["value"].tolist()
    assert "published" in frame["series"].tolist()


def test_specifications_are_plain_json_without_an_address_to_fetch(described, judged):
    for drawing in (*charts.kv_charts(described, judged), *charts.flops_charts(described, judged)):
        text = json.dumps(drawing.spec, allow_nan=False)
        assert '"url"' not in text
        assert text.count("http") == 1
        assert drawing.spec["$schema"].endswith("/v6.json")
