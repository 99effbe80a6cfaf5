"""Which records the report reads."""

from v3bench.suite.ledger import cases
from v3bench.suite.meter.scale import TENSOR_CORE
from v3bench.suite.report import accumulation_chart
from v3bench.suite.report.current import current


def test_the_last_of_each_series_and_of_the_case_as_it_is(record):
    case = cases.load()["logits-v3"]

    def made(value, **fields):
        given = {"area": "fp8", "case": case.name, "case_version": case.version, "metric": case.metric}
        return record(**given | {"samples": (value,), "clock": "none"} | fields)

    records = [
        made(1.0), made(2.0, impl="other"), made(3.0), made(4.0, convention="of another corpus"),
        made(5.0, case_version=case.version + 1), made(6.0, status="failed", why="it is so"), made(7.0, case="gone"),
    ]  # fmt: skip
    assert [m.samples for m in current(records)] == [(2.0,), (3.0,), (4.0,)]
    assert current(records, bench="logits", area="fp8") == current(records)
    assert current(records, bench="layers") == current(records, area="kv_variants") == []


def test_a_tensor_core_s_old_record_is_no_point(record):
    case = cases.load()["accumulation-uniform"]
    fields = {
        "area": "fp8", "case": case.name, "subject": TENSOR_CORE, "impl": "promoted",
        "metric": "relative_error", "convention": "kernel; uniform, K = 512, any", "clock": "none", "samples": (0.1,),
    }  # fmt: skip
    assert len(accumulation_chart.measured([record(**fields, case_version=case.version)])) == 1
    assert accumulation_chart.measured([record(**fields, case_version=case.version + 1)]).empty
