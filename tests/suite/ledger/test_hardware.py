"""Hardware as data: every number with its source, unknown absent, look-up by exact name."""

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import hardware


def test_every_number_has_a_source_and_a_status():
    for part in hardware.load().values():
        assert part.specs
        for spec in part.specs.values():
            assert spec.source
            assert spec.status in ("confirmed", "recomputed", "inference", "memory")


def test_look_up_by_exact_name():
    assert hardware.peak("NVIDIA H200", "bf16") == 989 * 10**12
    assert hardware.peak("NVIDIA H200", "bandwidth") == 4_800_000_000_000
    assert hardware.peak("NVIDIA H200 NVL", "bf16") is None
    assert hardware.peak("NVIDIA A100-SXM4-80GB", "fp8") is None
    assert hardware.peak("", "bandwidth") is None


def test_the_clock_gives_the_peak():
    spec = hardware.spec
    assert spec("h800-sxm.sms").si * spec("h800-sxm.flop_per_clock").si * spec("h800-sxm.clock").si == pytest.approx(
        989.4e12, rel=1e-4
    )


GOOD = '[p]\ntitle = "P"\nmatch = "P"\nmemory = { value = 80, unit = "GB", source = "s" }\n'


@pytest.mark.parametrize(
    "old, new, what",
    [
        ("memory =", "memroy =", "key 'memroy' is unknown; expected one of memory"),
        ('unit = "GB"', 'unit = "GB/s"', "a unit like B"),
        ('unit = "GB"', 'unit = "gb"', "unit 'gb' is not understood"),
        ("value = 80", "value = -80", "a positive number"),
        ("value = 80", "value = inf", "a positive number"),
        ("value = 80", 'value = "80"', "expected a number"),
        (', source = "s"', "", "lacks 'source'"),
        ('source = "s"', 'source = "s", status = "sure"', "value 'sure'"),
        ('title = "P"\n', "", "lacks 'title'"),
        ("[p]", '[q]\ntitle = "Q"\nmatch = "P"\n[p]', "two parts match 'P'"),
    ],
)
def test_a_typo_is_one_clear_line(tmp_path, old, new, what):
    path = tmp_path / "hardware.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        hardware.load(path)
    assert "hardware.toml" in str(caught.value)
    assert what in str(caught.value)


def test_a_reference_that_leads_nowhere():
    with pytest.raises(BadInput, match="hardware 'h20' is unknown"):
        hardware.spec("h20.bf16")
    with pytest.raises(BadInput, match="hardware value 'nvlnk'"):
        hardware.spec("h800-sxm.nvlnk")
