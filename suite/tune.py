"""v3bench tune: make the launch tables of the kernels anew, by timing on a GPU, or by prediction where there is none.

Every candidate configuration is compiled for sm_90 first; one that spills or does not fit is dropped. The rest are
ranked by laws/prediction.py. On a GPU the best of them are checked against the oracle and timed, and the fastest goes
into the table under the GPU's name; without one the best prediction does, under "sm_90", and says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v3bench.kernels import catalog, tables
from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws import work
from v3bench.suite.laws.prediction import Machine, Prediction, predict
from v3bench.suite.ledger import hardware
from v3bench.suite.meter.compiled import Built, Job, Outcome, compile_all
from v3bench.suite.meter.progress import Compiling
from v3bench.suite.run_folder import write_whole
from v3bench.suite.trials import own

SAME = 0.03  # predictions closer than this are not told apart: the candidate named first is taken
TIMED = 8  # candidates that are timed per shape


@dataclass(frozen=True)
class Ranked:
    """A usable candidate with its prediction."""

    config: Mapping[str, Any]
    built: tuple[Built, ...]
    prediction: Prediction


def machine(part: str = "h200-sxm") -> Machine:
    """What predictions are made for, from hardware.toml."""
    specs = hardware.load()[part].specs
    return Machine(
        sms=int(specs["sms"].si),
        clock=specs["clock"].si,
        bandwidth=specs["bandwidth_reached"].si,
        l2_bandwidth=specs["l2_reached"].si,
        launch=specs["launch"].si,
        flop_rate={"fp8": specs["fp8_reached"].si, "bf16": specs["bf16_reached"].si},
    )


def tune(
    ops: Sequence[str] = (),
    *,
    device: str = "cpu",
    folder: Path = tables.FOLDER,
    source: str = "v3bench tune",
    say: Callable[[str], None] = lambda line: None,
    processes: int = 2,
) -> list[Path]:
    """Write the tables of these operations (default: all) and return their paths. Raises BadInput."""
    ops = list(dict.fromkeys(own.ALIASES.get(op, op) for op in ops)) or list(catalog.MODULES)
    if unknown := [op for op in ops if op not in catalog.MODULES]:
        raise BadInput(f"unknown operation {unknown[0]!r}", where="tune", right=f"one of {own.OPERATIONS}")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot be made ({error.strerror})", where=str(folder), right="a folder to write to") from error
    written, tables_so_far = [], {op: existing(Path(folder) / f"{op}.json") for op in ops}
    for op in ops:
        module = catalog.module(op)
        shapes, candidates = module.TABLE_SHAPES[op], module.CANDIDATES[op]
        jobs = [Job(op, shape, config) for shape in shapes for config in candidates]
        say(f"{op}: {len(candidates)} candidates at {len(shapes)} shapes")
        outcomes = list(compile_all(jobs, processes=processes, done=Compiling(op, len(jobs), say)))
        rows = []
        for i, shape in enumerate(shapes):
            found = outcomes[i * len(candidates) : (i + 1) * len(candidates)]
            ranked = rank(op, shape, candidates, found)
            if not ranked:
                why = next((o for o in found if isinstance(o, str)), "every candidate spills or does not fit")
                raise BadInput(f"no candidate of {op} is usable at {dict(shape)}: {why}", where="tune")
            rows.append(chosen(op, shape, ranked, device, source, say))
        path = Path(folder) / f"{op}.json"
        try:
            write_whole(path, text(op, merged(tables_so_far[op], rows)))
        except OSError as error:
            raise BadInput(f"cannot be written ({error.strerror})", where=str(path), right="--out DIR") from error
        written.append(path)
    return written


def rank(
    op: str, shape: Mapping[str, int], candidates: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome]
) -> list[Ranked]:
    """The candidates that compile, spill nothing and fit, the best prediction first."""
    todo, target = work.of(op, shape), machine()
    usable = [
        Ranked(config, built, predict(todo, built, target))
        for config, built in zip(candidates, outcomes, strict=True)
        if not isinstance(built, str) and all(launch.ctas_per_sm and not launch.spills for launch in built)
    ]
    best = min((entry.prediction.seconds for entry in usable), default=0.0)
    # A stable sort: among those that the model cannot tell apart, the order of the candidates stays.
    return sorted(usable, key=lambda entry: max(entry.prediction.seconds, best * (1 + SAME)))


def chosen(
    op: str, shape: Mapping[str, int], ranked: Sequence[Ranked], device: str, source: str, say: Callable[[str], None]
) -> tables.Row:
    """The table's row of one shape."""
    name, basis, best = tables.HOPPER, "modelled", ranked[0]
    if device == "cuda":
        from v3bench.suite.trials.tuning import fastest

        name, config = fastest(op, shape, [entry.config for entry in ranked[:TIMED]], say)
        basis, best = "measured", next(entry for entry in ranked if entry.config == config)
    return tables.Row(
        device=name,
        shape=dict(shape),
        config=dict(best.config),
        basis=basis,
        source=source,
        triton=best.built[0].triton,
        predicted=best.prediction.as_json(work.of(op, shape)),
    )


def existing(path: Path) -> Sequence[tables.Row]:
    """The rows of a table, none where there is no file. Raises BadInput for a file that is no table."""
    if not path.is_file():
        return ()
    try:
        return tables.read(path)
    except (OSError, ValueError) as error:
        what = f"is no launch table ({error.strerror if isinstance(error, OSError) else error})"
        raise BadInput(what, where=str(path), right="one that v3bench tune wrote, or no file") from error


def merged(old: Sequence[tables.Row], rows: Sequence[tables.Row]) -> list[tables.Row]:
    """The new rows, and the old ones of other devices."""
    devices = {row.device for row in rows}
    return [*rows, *(row for row in old if row.device not in devices)]


def text(op: str, rows: Sequence[tables.Row]) -> str:
    """A table as JSON, a row a line."""
    lines = ",\n".join("    " + json.dumps(vars(row)) for row in rows)
    return f'{{\n  "op": {json.dumps(op)},\n  "rows": [\n{lines}\n  ]\n}}\n'
