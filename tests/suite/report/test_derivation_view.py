"""A claim's derivation shows the steps it rests on, and only those."""

from v3bench.suite.ledger.workings import work_out
from v3bench.suite.report.derivation_view import derivation_views, needed, sensitivity_table


def by_id(judged, name):
    return next(one for one in judged if one.claim.id == name)


def test_steps_that_do_not_matter_are_left_out(judged):
    worked = work_out("kv-ratios")
    assert {"llama_405b", "qwen_72b"} <= worked.steps.keys()
    assert needed(worked, {"llama_405b"}) == {"llama_405b"}
    view = derivation_views(by_id(judged, "kv-cache-multiple-qwen2-5-72b"))[0]
    assert [step["name"] for step in view["steps"]] == ["qwen_72b"]
    assert {given["name"] for given in view["inputs"]} == {"v3", "qwen"}


def test_numbers_stand_in_the_formula(judged):
    step = derivation_views(by_id(judged, "kv-cache-multiple-llama-3-1-405b"))[0]["steps"][0]
    assert step["expression"] == "llama / v3"
    assert step["filled"] == "516096 B / 70272 B"
    assert step["result"] == "7.3442623\u00a0\u00d7"
    assert step["used"]


def test_the_derivations_it_leans_on_follow(judged):
    views = derivation_views(by_id(judged, "kv-cache-multiple-llama-3-1-405b"))
    results = [step["result"] for view in views[1:] for step in view["steps"] if step["used"]]
    assert {"70,272\u00a0B", "516,096\u00a0B"} <= set(results)
    assert len({view["title"] for view in views}) == len(views)


def test_intermediate_steps_are_kept_in_order(judged):
    view = derivation_views(by_id(judged, "tpot-ib"))[0]
    assert [step["name"] for step in view["steps"]][-3:] == ["comm", "layer", "tpot"]
    assert [step["name"] for step in view["steps"] if step["used"]] == ["tpot"]
    assert all(given["source"] and given["status"] for given in view["inputs"])


def test_every_claim_with_a_derivation_shows_its_deciding_steps(judged):
    for one in judged:
        shown = {step["name"] for view in derivation_views(one) for step in view["steps"] if step["used"]}
        wanted = {row.origin.rpartition(".")[2] for row in one.deciding if row.worked}
        assert wanted <= shown, one.claim.id


def test_variants_stand_beside_each_other(judged):
    table = sensitivity_table(by_id(judged, "tpot-ib"))
    assert table is not None
    cells = dict(table.cells)
    assert cells["as published"] == "14.7571\u00a0ms"
    assert cells["GB200 NVL72"] == "0.81984\u00a0ms"
