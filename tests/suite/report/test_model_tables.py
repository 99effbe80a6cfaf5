"""The presets' tables agree with the laws, and a proxy never reads as a released model."""

import pytest
from v3bench.suite import models
from v3bench.suite.laws import flops, kv, params
from v3bench.suite.report import model_tables


@pytest.fixture(scope="module")
def described():
    return model_tables.descriptions()


def test_every_preset_stands_in_every_frame(described):
    names = set(models.presets())
    for frame in (
        model_tables.params_frame(described),
        model_tables.kv_frame(described),
        model_tables.flops_frame(described),
        model_tables.sequence_frame(described),
        model_tables.conventions_frame(described),
    ):
        assert set(frame["model"]) == names


def test_values_are_those_of_the_laws(described):
    config = models.load("llama-3.1-405b")[1]
    kv_row = model_tables.kv_frame(described).set_index("model").loc["llama-3.1-405b"]
    assert kv_row["bf16"] == kv.bytes_per_token(config)
    assert params.count(config).total in model_tables.params_frame(described)["total"].tolist()
    sequence = model_tables.sequence_frame(described).set_index(["model", "tokens"])["bytes"]
    assert sequence["llama-3.1-405b", 131072] == kv.bytes_per_sequence(config, 131072)
    causal = model_tables.flops_frame(described).set_index("model").loc["llama-3.1-405b", "train_causal"]
    assert causal == flops.train(config, 4096) / 4096 / 1e9


def test_ratio_is_against_deepseek_v3(described):
    ratios = model_tables.kv_frame(described).set_index("model")["ratio"]
    assert ratios["deepseek-v3"] == 1
    assert ratios["llama-3.1-405b"] == pytest.approx(516096 / 70272)


def test_kinds_tell_released_inferred_and_proxy_apart(described):
    kinds = {name: model_tables.kind(name) for name in described}
    assert {name for name, kind in kinds.items() if kind == "inferred"} == {"ablation-large", "ablation-small"}
    billions = {name: described[name]["params"]["total"] / 1e9 for name in described}
    assert {name for name, kind in kinds.items() if kind == "proxy"} == {n for n, size in billions.items() if size < 1}
    assert not {"deepseek-v3-small", "ablation-small"} & set(model_tables.released(described))


def test_every_convention_of_every_released_model_is_shown(described):
    values, meanings = model_tables.convention_tables(described)
    wanted = {row["name"] for d in described.values() for row in d["conventions"]}
    assert {row[0] for row in values.cells} == wanted == {row[0] for row in meanings.cells}


def test_missing_cells_are_dashes_not_zeros(described):
    rows = {row[0]: row for row in model_tables.kv_table(described).cells}
    assert rows["llama-3.1-8b"][4] == "\u2013"
    assert rows["deepseek-v3"][2:5] == ["70,272", "35,136", "40,016"]
