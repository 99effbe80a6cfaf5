"""The command ``v3bench``: parse arguments, call one function, print. The one place that prints.

Standard output carries the result (with ``--json`` one JSON object and nothing else), standard error the
progress and the errors. Exit status: 0 done; 1 a claim's check errored, a kernel does not compile, or weights are not
finite; 2 wrong usage or bad input, in one line; 3 cut short, and what was measured is kept. Nothing here imports torch,
pandas or jinja before a command needs it, so that ``--help`` and ``model`` answer at once.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

from v3bench.model_ref.errors import BadInput

PROFILES = ("smoke", "quick", "standard", "full")
CUT_SHORT = 3


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one line: what, where, what would be right."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (see {self.prog} --help)", where=self.prog.removeprefix("v3bench").strip())


def parser() -> argparse.ArgumentParser:
    """The whole command line; tests freeze its list of flags."""
    top = Parser(
        prog="v3bench",
        description="Do the numbers published for DeepSeek-V3 hold, and what do they become on your hardware?",
    )
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(name: str, handler: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(handler=handler)
        return sub

    run = command("run", run_command, "run benchmarks into a run folder, print the ledger and write report.html")
    run.add_argument("--profile", choices=PROFILES, default="quick", help="how much to run (default: quick)")
    run.add_argument("--only", metavar="AREA,...", help="only these areas")
    run.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one, else cpu")
    run.add_argument("--out", metavar="DIR", help="run folder to write (default: a new one under runs/)")
    run.add_argument("--resume", action="store_true", help="go on in --out, skipping what it already holds")
    run.add_argument(
        "--checkpoint", metavar="DIR", help="a released checkpoint to measure with, where a case wants one"
    )
    run.add_argument(
        "--corpus", metavar="DIR", help="text that the mtp area trains and measures on (default: Python's own library)"
    )
    run.add_argument(
        "--tokenizer", metavar="FILE",
        help="a tokenizer.json, or a folder with one: the mtp area's proxies read its tokens (default: bytes)",
    )  # fmt: skip
    run.add_argument(
        "--impl", action="append", default=[], metavar="OP=package.module:function",
        help="a kernel of your own, set beside ours in every case; may be repeated; --impl help says how it is called",
    )  # fmt: skip

    report = command("report", report_command, "write the HTML report of one or more run folders")
    report.add_argument("runs", nargs="+", metavar="RUN", help="a run folder")
    report.add_argument("-o", dest="output", metavar="FILE.html", help="default: report.html in the first run folder")

    claims = command("claims", claims_command, "print the ledger: every published number with its verdict")
    claims.add_argument("run", nargs="?", metavar="RUN", help="a run folder whose measurements count as evidence")
    claims.add_argument("--json", action="store_true", help="one JSON object")

    model = command("model", model_command, "parameters, KV bytes and GFLOPs per token of any model")
    model.add_argument("model", metavar="PRESET|config.json|CHECKPOINT_DIR", help="a preset's name or a path")
    model.add_argument(
        "--seq-len", type=int, default=4096, metavar="N", help="sequence length or context (default: 4096)"
    )
    model.add_argument("--count", action="store_true", help="count the real modules too, operator by operator")
    model.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a config key first; may be repeated"
    )
    model.add_argument("--json", action="store_true", help="one JSON object")

    tune = command("tune", tune_command, "make the kernels' launch tables anew: timed on a GPU, predicted without one")
    tune.add_argument("ops", nargs="*", metavar="OP", help="operations (default: all)")
    tune.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one, else cpu")
    tune.add_argument("--out", metavar="DIR", help="folder of the tables (default: kernels/tables of this checkout)")

    compile_ = command(
        "compile", compile_command,
        "compile the kernels of a run for a Hopper GPU, on any machine, into a folder that Triton's cache is read from",
    )  # fmt: skip
    compile_.add_argument("folder", metavar="DIR", help="folder of the cache; what it holds already is kept")
    compile_.add_argument("ops", nargs="*", metavar="OP", help="operations (default: all)")
    compile_.epilog = (
        "Example: v3bench compile triton-cache; carry that folder to the GPU, and there "
        "TRITON_CACHE_DIR=triton-cache v3bench run --only kernels --device cuda"
    )

    weights = command(
        "weights", weights_command,
        "the error of FP8 weights: what the export of a BF16 checkpoint would have, what an FP8 one has --against its "
        "original; of an FP8 one alone, how it uses its range",
    )  # fmt: skip
    weights.add_argument("checkpoint", metavar="CHECKPOINT", help="a Hugging Face folder in BF16 or FP8")
    weights.add_argument("--against", metavar="ORIGINAL", help="the BF16 folder that an FP8 CHECKPOINT was made from")
    weights.add_argument(
        "--export", metavar="DIR", help="write a BF16 CHECKPOINT to this new folder in DeepSeek-V3's FP8 layout instead"
    )
    weights.add_argument("--json", action="store_true", help="one JSON object, with the figures of every matrix")

    generate = command("generate", generate_command, "continue a prompt with a checkpoint's model")
    generate.add_argument("checkpoint", metavar="CHECKPOINT", help="a Hugging Face folder: DeepSeek, Llama or Qwen")
    given = generate.add_mutually_exclusive_group(required=True)
    given.add_argument("--prompt", metavar="TEXT", help="the text to continue")
    given.add_argument("--tokens", metavar="FILE.json", help="its tokens, as a JSON list")
    generate.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="at most so many (default: 128)")
    generate.add_argument("--mtp", action="store_true", help="draft with the MTP module; one step verifies")
    generate.add_argument("--drafts", type=int, metavar="N", help="tokens drafted a step, with --mtp (default: 1)")
    generate.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="sample at this temperature (default: 0, greedy)"
    )
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling (default: 0)")
    generate.add_argument("--json", action="store_true", help="one JSON object, when all is generated")

    doctor = command("doctor", doctor_command, "say what this machine can run, and what it will skip and why")
    doctor.add_argument("--json", action="store_true", help="one JSON object")
    return top


def run_command(args: argparse.Namespace) -> int:
    if "help" in args.impl:
        from v3bench.suite.trials import own

        show("\n".join(own.usage()))
        return 0
    from v3bench.suite import runner
    from v3bench.suite.ledger import claims
    from v3bench.suite.run_folder import load_run

    only = () if args.only is None else tuple(args.only.split(","))
    stream = sys.stderr  # as it is now: pytest puts another in its place while a benchmark runs
    with runner.signals_interrupt():
        claims.load()  # a ledger that cannot be read ends a run before it has begun
        folder, status = runner.run(
            profile=args.profile, only=only, device=args.device, out=args.out, resume=args.resume,
            checkpoint=args.checkpoint, corpus=args.corpus, tokenizer=args.tokenizer, impls=args.impl,
            say=lambda line: say(line, stream),
        )  # fmt: skip
        run = load_run(folder)
        judged = judge([run])
        errored = print_ledger(judged)
        show(f"report: {write_report([run], judged, folder / 'report.html')}")
    return status or errored


def report_command(args: argparse.Namespace) -> int:
    from pathlib import Path

    from v3bench.suite.report.bundle import Bundle

    # The charts' script is made while the runs are read; looking for cycles among their records finds none.
    with uncollected(), Bundle() as bundle:
        runs, status = load_runs(args.runs)
        output = Path(args.output) if args.output else Path(args.runs[0]) / "report.html"
        show(f"report: {write_report(runs, judge(runs), output, bundle)}")
    return status


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection inside: a fifth of the time of a page of 100,000 records."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def claims_command(args: argparse.Namespace) -> int:
    runs, status = load_runs([] if args.run is None else [args.run])
    judged = judge(runs)
    if not args.json:
        return print_ledger(judged) or status
    print_json({"claims": [row.as_json() for row in judged]})
    return int(any(row.errored for row in judged)) or status


def model_command(args: argparse.Namespace) -> int:
    from v3bench.suite import accounting, models

    if args.seq_len < 1:
        raise BadInput(f"--seq-len is {args.seq_len}", where="model", right="a positive number of tokens")
    name, config = models.load(args.model, dict(map(assignment, args.set)))
    described = accounting.describe(name, config, seq_len=args.seq_len, count=args.count)
    if args.json:
        print_json(described)
    else:
        show(accounting.text_table(described, config))
    return 0


def tune_command(args: argparse.Namespace) -> int:
    from pathlib import Path

    from v3bench.kernels import tables
    from v3bench.suite import runner, tune

    with runner.signals_interrupt():
        device = runner.chosen_device(args.device)
        folder = Path(args.out) if args.out else tables.FOLDER
        for path in tune.tune(args.ops, device=device, folder=folder, say=say):
            show(str(path))
    return 0


def compile_command(args: argparse.Namespace) -> int:
    from v3bench.suite import compile, runner

    with runner.signals_interrupt():
        cache = compile.fill(args.folder, args.ops, say=say)
    show("\n".join(cache.lines()))
    return int(bool(cache.failed))


def weights_command(args: argparse.Namespace) -> int:
    from v3bench.suite import runner

    if args.export is not None and args.against is not None:
        raise BadInput("--export and --against are given", where="weights", right="one of them")
    with runner.signals_interrupt():
        if args.export is not None:
            from v3bench.suite import export

            written = export.write(args.checkpoint, args.export, say)
            if args.json:
                print_json(written.as_json())
            else:
                show("\n".join(written.lines()))
            return 0
        from v3bench.suite.budget import weights, weights_text

        found = weights.measure(args.checkpoint, args.against, say)
    if args.json:
        print_json(found.as_json())
    else:
        show("\n".join(weights_text.lines(found)))
    return int(bool(found.not_finite))


def generate_command(args: argparse.Namespace) -> int:
    from v3bench.suite import generation, runner

    if args.drafts is not None and not args.mtp:
        raise BadInput("--drafts is given without --mtp", where="generate", right="both, or neither")
    drafts = 0 if not args.mtp else 1 if args.drafts is None else args.drafts
    if args.mtp and drafts < 1:
        raise BadInput(f"--drafts is {drafts}", where="generate", right="a positive number")
    request = generation.Request(
        checkpoint=args.checkpoint, prompt=args.prompt, file=args.tokens, max_new_tokens=args.max_new_tokens,
        drafts=drafts, temperature=args.temperature, seed=args.seed,
    )  # fmt: skip
    put = (lambda text: True) if args.json else (lambda text: show(text, end=""))
    with runner.signals_interrupt():
        made = generation.answer(request, runner.chosen_device(None), put)
    if made is None:
        return 0
    if args.json:
        print_json(made.as_json())
    else:
        show("")
        say(f"v3bench: {made.line()}")
    return 0


def doctor_command(args: argparse.Namespace) -> int:
    from v3bench.suite import doctor

    found = doctor.report()
    if args.json:
        print_json(found)
    else:
        show("\n".join(doctor.text(found)))
    return 0


def load_runs(paths: Sequence[str]) -> tuple[list[Any], int]:
    """The run folders, and 3 where the last line of one is cut off, which is said; else 0."""
    from v3bench.suite.run_folder import load_run

    runs = [load_run(path) for path in paths]
    messages = [message for run in runs for message in run.messages]
    for message in messages:
        say(f"v3bench: {message}")
    return runs, CUT_SHORT if messages else 0


def judge(runs: Sequence[Any]) -> Any:
    """Every claim of the ledger judged on these runs' measurements."""
    from v3bench.suite.ledger import claims, verdict

    return verdict.judge(claims.load(), [m for run in runs for m in run.measurements])


def print_ledger(judged: Sequence[Any]) -> int:
    """Print the judged ledger as a table; 1 if a claim's check errored."""
    from v3bench.suite.ledger import text

    show("\n".join(text.lines(judged)))
    return int(any(row.errored for row in judged))


def write_report(runs: Sequence[Any], judged: Sequence[Any], output: Any, bundle: Any = None) -> Any:
    """Render and write the HTML report; returns its path."""
    from v3bench.suite.report import page

    page.write(output, page.render(runs, judged, bundle))
    return output


def assignment(text: str) -> tuple[str, Any]:
    """``KEY=VALUE`` with VALUE as JSON where it is JSON, else as text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {text!r} is no assignment", right="KEY=VALUE, for example num_hidden_layers=32")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def print_json(value: Any) -> None:
    show(json.dumps(value, indent=2, allow_nan=False))


def show(text: str, end: str = "\n") -> bool:
    """Put a result on standard output. Raises BadInput where that cannot be written; False where nobody reads."""
    try:
        print(text, end=end, flush=True)
        return True
    except OSError as error:
        # What is still in the buffer would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            what = f"cannot be written ({error.strerror})"
            raise BadInput(what, where="standard output", right="a file on a disk with room") from error
        return False


def say(message: str, stream: TextIO | None = None) -> None:
    """One line of progress or warning, at once, by default on standard error; to nobody where that is closed."""
    stream = stream or sys.stderr
    if stream is not None:
        print(message, file=stream, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends nothing
    try:
        args = parser().parse_args(argv)
        if args.version:
            from v3bench import __version__

            show(f"v3bench {__version__}")
            return 0
        if args.command is None:
            raise BadInput("no command is given", right="run, report, claims, model or doctor")
        status: int = args.handler(args)
        return status
    except BadInput as error:
        say(f"v3bench: {error}")
        return 2
    except KeyboardInterrupt:
        say("v3bench: interrupted; what was measured before is kept")
        return CUT_SHORT
