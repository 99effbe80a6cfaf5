"""Published speeds: each with chip, clock and source, at dimensions of its operation, and never evidence."""

from __future__ import annotations

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws import work
from v3bench.suite.ledger import hardware, speeds

GOOD = 'who = "w"\nop = "fp8_gemm"\nchip = "c"\nclock = "cold"\nsource = "s"\nunit = "us"\n'
FIGURE = "figures = [{ M = 1, N = 2, K = 3, value = 5 }]\n"


def test_every_figure_says_whose_on_what_and_how_timed():
    for one in speeds.load():
        assert all((one.series.who, one.series.chip, one.series.clock, one.series.source))
        assert one.series.chip in one.text


def test_no_figure_is_beyond_what_the_chip_can_do():
    """A slip of a digit or a unit would be: 1979 TFLOP/s and 989 in bfloat16, 4.8 TB/s on the best of these chips."""
    fast = hardware.load()["h200-sxm"].specs
    for one in speeds.load():
        todo = work.of(one.series.op, one.shape)
        if todo.flops:
            # TensorRT-LLM's attention over an FP8 cache multiplies in FP8.
            peak = "fp8" if one.series.op.endswith("fp8") else todo.peak
            assert todo.flops / one.seconds < fast[peak].si, one.text
        if one.series.op.startswith("paged"):
            assert todo.nbytes / one.seconds < 1.2 * fast["bandwidth"].si, one.text
        assert one.seconds > 1e-6, one.text


def test_a_shape_finds_its_figures():
    texts = [one.text for one in speeds.of("fp8_gemm", {"M": 64, "N": 7168, "K": 16384})]
    assert "336 TFLOP/s (DeepGEMM, H800, cold, kernel only)" in texts
    with_quantisation = (
        "35.9 us (DeepGEMM in SGLang, H200, CUDA graph, 6 weight sets, with quantisation of the activations)"
    )
    assert with_quantisation in texts
    assert speeds.of("fp8_gemm", {"M": 65, "N": 7168, "K": 16384}) == []


def test_a_rate_is_a_time_at_its_work():
    rate = next(one for one in speeds.load() if one.value == 336)
    assert rate.seconds == pytest.approx(2 * 64 * 7168 * 16384 / 336e12)
    time = next(one for one in speeds.load() if one.value == 35.9)
    assert time.seconds == pytest.approx(35.9e-6)


@pytest.mark.parametrize(
    "text, what",
    [
        (GOOD.replace('"fp8_gemm"', '"gem"') + FIGURE, "a: operation 'gem' is unknown; expected one of fp8_gemm"),
        (GOOD.replace('"us"', '"kB"') + FIGURE, "unit 'kB'; expected us, TFLOP/s or TB/s"),
        (GOOD + "figures = [{ M = 1, N = 2, value = 5 }]\n", "figure 1: dimensions M, N are not those of fp8_gemm"),
        (GOOD + "figures = [{ M = 1, N = 2, K = 3, value = 0 }]\n", "figure 1: is no speed"),
        (GOOD + "figures = [{ M = 1, N = 2, K = 3 }]\n", "figure 1: is no speed"),
        (GOOD.replace('"cold"', "3") + FIGURE, "clock: is 3"),
        (GOOD.replace('source = "s"\n', "") + FIGURE, "lacks 'source'"),
        (
            'who = "w"\nop = "route"\nchip = "c"\nclock = "c"\nsource = "s"\nunit = "TFLOP/s"\n'
            "figures = [{ T = 1, E = 2, K = 1, value = 1 }]\n",
            "route does no products",
        ),
    ],
)
def test_a_bad_figure_is_named(tmp_path, text, what):
    path = tmp_path / "published_speeds.toml"
    path.write_text("[a]\n" + text)
    with pytest.raises(BadInput) as error:
        speeds.load(path)
    assert what in str(error.value)
    assert str(error.value).startswith("published_speeds.toml: a")
