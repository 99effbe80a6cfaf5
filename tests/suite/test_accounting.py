"""``v3bench model``: the contract's keys, the terminal table, and that formulas need no torch."""

import json
import subprocess
import sys

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite import accounting
from v3bench.suite.models import load, presets


@pytest.mark.parametrize("preset", presets())
def test_the_object_is_the_contracts(preset):
    name, config = load(preset)
    got = accounting.describe(name, config)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert list(got) == [
        "name", "architecture", "seq_len", "params", "kv_bytes_per_token", "gflops_per_token", "conventions", "counted",
    ]  # fmt: skip
    assert list(got["params"]) == ["total", "activated", "activated_without_input_embedding", "mtp"]
    assert all(type(n) is int for n in got["params"].values())
    assert list(got["kv_bytes_per_token"]) == ["bf16", "fp8", "fp8_flashmla"]
    assert all(n is None or type(n) is int for n in got["kv_bytes_per_token"].values())
    assert list(got["gflops_per_token"]) == ["train_causal", "train_full", "prefill_causal", "decode"]
    assert got["counted"] is None
    rows = {row["name"]: row["gflops_per_token"] for row in got["conventions"]}
    assert got["gflops_per_token"].items() <= rows.items()


def test_sequence_length_changes_flops_and_not_bytes():
    name, config = load("deepseek-v3")
    short, long = (accounting.describe(name, config, n) for n in (1024, 8192))
    assert short["kv_bytes_per_token"] == long["kv_bytes_per_token"]
    assert short["gflops_per_token"]["decode"] < long["gflops_per_token"]["decode"]


@pytest.mark.parametrize("seq_len", [0, -4096, 1.5, True])
def test_a_length_that_is_none_is_refused(seq_len):
    with pytest.raises(BadInput, match="sequence length"):
        accounting.describe(*load("deepseek-v3"), seq_len)


def test_the_table_names_its_units_and_every_convention():
    name, config = load("deepseek-v3")
    text = accounting.text_table(accounting.describe(name, config), config)
    for words in ("671,026,419,200", "70,272", "70.272", "68.625", "KiB (1024 B)", "kB (1000 B)", "9,210,691,584"):
        assert words in text
    assert all(row["name"] in text for row in accounting.describe(name, config)["conventions"])
    assert max(map(len, text.splitlines())) <= 120


def test_formulas_import_no_torch():
    code = (
        "import sys; from v3bench.suite import accounting; from v3bench.suite.models import load;"
        "name, config = load('deepseek-v3');"
        "accounting.text_table(accounting.describe(name, config), config);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
