"""The command line: its flags, its exit statuses, its one-line errors, and what it does not import."""

import argparse
import json
import os
import subprocess
import sys

import pytest
from v3bench.suite import cli

HEAVY = {"torch", "pandas", "jinja2", "pytest"}
FLAGS = {
    "run": {"--profile", "--only", "--device", "--out", "--resume", "--checkpoint"},
    "report": {"-o"},
    "claims": {"--json"},
    "model": {"--seq-len", "--count", "--set", "--json"},
    "doctor": {"--json"},
}


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def test_the_flags_are_those_of_the_contract() -> None:
    found = {
        name: {flag for action in sub._actions for flag in action.option_strings} - {"-h", "--help"}
        for name, sub in subcommands().items()
    }
    assert found == FLAGS


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "v3bench", *args], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "args, names",
    [
        ((), "no command"),
        (("nonsense",), "nonsense"),
        (("model",), "PRESET"),
        (("model", "no-such-model"), "no-such-model"),
        (("model", "deepseek-v3", "--seq-len", "0"), "--seq-len"),
        (("model", "deepseek-v3", "--seq-len", "x"), "--seq-len"),
        (("model", "deepseek-v3", "--set", "hidden_size"), "hidden_size"),
        (("model", "deepseek-v3", "--set", "hidden_sise=7"), "hidden_sise"),
        (("model", "deepseek-v3", "--set", "n_routed_experts=255"), "n_routed_experts"),
        (("run", "--profile", "huge"), "huge"),
        (("run", "--only", "nonsense"), "nonsense"),
        (("claims", "no-such-run"), "no-such-run"),
        (("report", "no-such-run"), "no-such-run"),
    ],
)
def test_wrong_usage_exits_2_with_one_line(args: tuple[str, ...], names: str) -> None:
    done = run(*args)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert names in done.stderr


@pytest.mark.parametrize(
    "args, heavy",
    [
        (("--help",), HEAVY | {"numpy"}),
        (("model", "deepseek-v3", "--json"), HEAVY | {"numpy"}),
        (("claims", "--json"), HEAVY),  # its laws simulate routing and FP8 sums with numpy
    ],
)
def test_answers_without_importing_what_is_heavy(args: tuple[str, ...], heavy: set[str]) -> None:
    code = (
        "import sys\nfrom v3bench.suite import cli\n"
        "try:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print(sorted({heavy} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_json_is_one_object_on_standard_output() -> None:
    assert json.loads(run("model", "llama-3.1-8b", "--json").stdout)["name"] == "llama-3.1-8b"
    assert json.loads(run("claims", "--json").stdout).keys() == {"claims"}


def test_set_answers_what_if_questions() -> None:
    whole = json.loads(run("model", "deepseek-v3", "--json").stdout)
    half = json.loads(run("model", "deepseek-v3", "--set", "kv_lora_rank=192", "--json").stdout)
    assert (half["kv_bytes_per_token"]["bf16"], whole["kv_bytes_per_token"]["bf16"]) == (
        (192 + 64) * 61 * 2,
        576 * 61 * 2,
    )


def test_a_reader_that_leaves_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "v3bench", "claims"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
