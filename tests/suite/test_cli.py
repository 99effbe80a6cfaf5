"""The command line: its flags, its exit statuses, its one-line errors, and what it does not import."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from v3bench.suite import cli
from v3bench.suite.run_folder import RunFolder, load_run

from .test_run_folder import FACTS, RECORD, SEGMENT

ROOT = Path(__file__).parents[2]

HEAVY = {"torch", "pandas", "jinja2", "pytest"}
FLAGS = {
    "run": {
        "--profile",
        "--only",
        "--device",
        "--out",
        "--resume",
        "--checkpoint",
        "--corpus",
        "--tokenizer",
        "--impl",
    },
    "report": {"-o"},
    "claims": {"--json"},
    "model": {"--seq-len", "--count", "--set", "--json"},
    "tune": {"--device", "--out"},
    "compile": set(),
    "weights": {"--against", "--export", "--json"},
    "generate": {
        "--prompt",
        "--tokens",
        "--max-new-tokens",
        "--mtp",
        "--drafts",
        "--temperature",
        "--seed",
        "--json",
    },
    "doctor": {"--json"},
}
MANY = ("--set", "vocab_size=9999999999", "--set", "hidden_size=9999999996", "--set", "head_dim=4")


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
        (("run", "--device", "cpu", "--tokenizer", "nowhere"), "nowhere: cannot be read (No such file or directory)"),
        (("model", "deepseek-v3", "--seq-len", "0"), "--seq-len"),
        (("model", "deepseek-v3", "--seq-len", "x"), "--seq-len"),
        (("model", "."), ".: holds no config.json"),
        (("model", ""), "no preset"),
        (
            ("model", "deepseek-v3", "--count", "--seq-len", "99999999999"),
            "too many to count; expected at most 16777216",
        ),
        (("model", "deepseek-v3", "--set", "num_hidden_layers=9999999999"), "expected at most 100000"),
        (("model", "llama-tiny", "--set", "hidden_size=4000000000"), "head_dim is 1000000000; expected at most 65536"),
        (("model", "deepseek-v3", "--set", "hidden_size=0"), "deepseek-v3.json with hidden_size changed: hidden_size"),
        (("model", "llama-tiny", "--count", *MANY), "llama-tiny: one tensor is larger than torch can address"),
        (("model", "deepseek-v3", "--set", "a.b=0"), "'a' is no table; expected a key below a table"),
        (("model", "deepseek-v3", "--set", "hidden_size"), "hidden_size"),
        (("model", "deepseek-v3", "--set", "hidden_sise=7"), "hidden_sise"),
        (("model", "deepseek-v3", "--set", "n_routed_experts=255"), "n_routed_experts"),
        (("run", "--profile", "huge"), "huge"),
        (("run", "--only", "nonsense"), "nonsense"),
        (("run", "--only", ""), "--only"),
        (("run", "--out", ""), "--out"),
        (("run", "--checkpoint", "no-such-folder"), "no-such-folder"),
        (("run", "--impl", "gem=a:b"), "--impl: unknown operation 'gem'"),
        (("run", "--impl", "gemm=no_such_module:f"), "no_such_module cannot be imported"),
        (("run", "--impl", "gemm=math:nothing"), "has no 'nothing'"),
        (("run", "--impl", "gemm=math:pi"), "--impl math:pi: is float, not callable"),
        (("run", "--only", "tpot", "--impl", "gemm=math:cos"), "--impl: kernels are not among the areas to run"),
        (("compile",), "DIR"),
        (("compile", ""), "the folder's name is empty"),
        (("compile", "never-made", "gem"), "compile: unknown operation 'gem'"),
        (("compile", "/dev/null"), "/dev/null: cannot be written (File exists); expected a folder to write to"),
        (("weights",), "CHECKPOINT"),
        (("weights", "no-such-folder"), "no-such-folder: is no folder; expected a folder with config.json and"),
        (("weights", "no-such-folder", "--export", ""), "--export: the folder's name is empty"),
        (("weights", "a", "--export", "b", "--against", "c"), "weights: --export and --against are given"),
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


def test_how_to_call_a_kernel_of_ones_own_is_listed() -> None:
    done = run("run", "--impl", "help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  paged_mla (short: mla_decode)" in done.stdout


def test_a_folder_here_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copy(ROOT / "baselines/presets/llama-tiny.json", tmp_path / "mine" / "config.json")
    monkeypatch.chdir(tmp_path / "mine")
    assert json.loads(run("model", ".", "--json").stdout)["name"] == "mine"


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


@pytest.mark.parametrize("args", [("claims",), ("model", "llama-tiny", "--json"), ("doctor", "--json"), ("--version",)])
def test_standard_output_that_is_full_is_one_line(args: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "v3bench", *args]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == [
        "v3bench: standard output: cannot be written (No space left on device); expected a file on a disk with room"
    ]


@pytest.mark.parametrize("closed", [1, 2])
def test_closed_streams_are_no_error(closed: int) -> None:
    # The name given is the interpreter's own: by another one Python would look for its packages elsewhere.
    again = "os.execv(sys.executable, [sys.executable, '-m', 'v3bench', *sys.argv[1:]])"
    code = f"import os, sys; os.close({closed}); {again}"
    for args, status in ((("model", "llama-tiny"), 0), (("model", "nope"), 2)):
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
        assert done.returncode == status
        assert "Traceback" not in done.stdout + done.stderr
        assert (done.stdout, done.stderr)[closed - 1] == ""
        assert "nope" not in done.stdout  # an error is never the result


def test_json_is_json_in_any_encoding(tmp_path: Path) -> None:
    shutil.copy(ROOT / "baselines/presets/llama-tiny.json", tmp_path / "caf\u00e9.json")
    command = [sys.executable, "-m", "v3bench", "model", str(tmp_path / "caf\u00e9.json")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for more in ((), ("--json",)):
        done = subprocess.run([*command, *more], capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "caf\u00e9"


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A run folder with one record and half of another."""
    folder = RunFolder.open(tmp_path / "cut", FACTS)
    folder.start(SEGMENT)
    folder.append(RECORD)
    folder.close()
    with (folder.path / "measurements.jsonl").open("a") as file:
        file.write(RECORD.line()[:40])
    return folder.path


@pytest.mark.parametrize("args", [("claims",), ("claims", "--json"), ("report",)])
def test_a_folder_cut_off_is_read_said_and_exits_3(cut: Path, args: tuple[str, ...]) -> None:
    before = (cut / "measurements.jsonl").read_bytes()
    done = run(*args, str(cut))
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"v3bench: {cut}/measurements.jsonl: the last line is cut off")
    assert line.endswith(f"v3bench run --resume --out {cut} measures it again")
    assert (cut / "measurements.jsonl").read_bytes() == before
    assert load_run(cut).measurements == (RECORD,)
    assert (cut / "report.html").exists() == (args == ("report",))
    assert "--json" not in args or json.loads(done.stdout).keys() == {"claims"}


@pytest.mark.parametrize("args", [("claims",), ("claims", "--json"), ("run", "--profile", "smoke", "--out", "made")])
def test_a_mistyped_ledger_is_one_line_before_anything_is_measured(tmp_path: Path, args: tuple[str, ...]) -> None:
    (tmp_path / "v3bench").mkdir()
    for name in ("kernels", "model_ref", "baselines", "suite"):
        shutil.copytree(ROOT / name, tmp_path / "v3bench" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "suite" / "root", tmp_path / "v3bench", dirs_exist_ok=True)
    claims = tmp_path / "v3bench/suite/ledger/claims/kv_cache.toml"
    claims.write_text(claims.read_text().replace("statement =", "statment =", 1))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "v3bench", *args]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert all(words in line for words in ("kv_cache.toml: kv-cache-deepseek-v3", "'statment'", "statement"))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGHUP, signal.SIGINT))]
)
def test_a_signal_at_any_time_of_a_run_is_one_line_and_status_3(tmp_path: Path, number: signal.Signals) -> None:
    """Before pytest starts and after it ended, too: here while the claims are judged."""
    code = (
        "import os, signal, sys\nfrom v3bench.suite import cli\nfrom v3bench.suite.ledger import verdict\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"verdict.judge = lambda *_: os.kill(os.getpid(), {int(number)})\n"
        f"sys.exit(cli.main(['run', '--profile', 'smoke', '--only', 'fp8', '--device', 'cpu', '--out', sys.argv[1]]))"
    )
    out = str(tmp_path / "run")
    done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert done.stderr.splitlines()[-1] == "v3bench: interrupted; what was measured before is kept"
    assert load_run(out).info["segments"][0]["exit"] == 0
