"""What a proxy's gap does to the published claims: it stands beside them and decides none."""

import pytest
from v3bench.suite.ledger import claims, verdict
from v3bench.suite.meter.measurement import Measurement


@pytest.mark.parametrize("name", ["fp8-loss-gap-16b", "fp8-loss-gap-230b", "fp8-accuracy-loss-isca"])
@pytest.mark.parametrize("gap", [1e-4, 0.1])
def test_a_proxy_decides_no_claim_about_the_full_model(name, gap):
    measured = [
        Measurement(
            area="fp8", subject=f"proxy.{recipe}", impl="emulated", case="loss-gap-quick", case_version=1,
            metric="loss_gap", basis="measured", scale="proxy", launch="a", samples=(gap,) * 3,
        )
        for recipe in ("fp8", "control-2-bit")
    ]  # fmt: skip
    (found,) = verdict.judge([claims.read(name)], measured)
    assert (found.outcome, found.deciding) == ("untested", ())
    assert found.verdict == "not tested (needs two training runs of that size, FP8 and BF16)"
    beside = [row for row in found.evidence if row.basis == "measured"]
    assert [(row.scale, row.value) for row in beside] == [("proxy", pytest.approx(100 * gap))]
