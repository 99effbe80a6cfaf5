"""Tables of the kernels: times beside rivals, roofline and published figures; checks; what was not timed, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Self

import pandas as pd
from v3bench import kernels
from v3bench.suite.laws import work
from v3bench.suite.ledger import cases, speeds
from v3bench.suite.ledger.cases import Case
from v3bench.suite.meter.ceilings import CEILINGS
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.meter.statistics import ratio_claim
from v3bench.suite.report.display import MISSING, TIMES, fixed, number
from v3bench.suite.report.rooflines import Ceilings, ceiling_of, share
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.run_folder import Run
from v3bench.suite.trials.own import is_own

AREA, OURS, PREFIX = "kernels", "triton", "kernels."
HOPPER = "sm_90"  # kernels/tables.py, which imports torch
HARD = "\u00a0"  # a space where no line ends
ALL = 1000  # rows of a table that are shown; no operation has so many
Found = dict[str, Measurement]  # of one case: by implementation, the record in force


@dataclass(frozen=True)
class KernelRun:
    """A run's facts, and its records of kernels by case."""

    run: Run
    records: dict[str, list[Measurement]]

    @classmethod
    def of(cls, run: Run) -> Self:
        records: dict[str, list[Measurement]] = {}
        for m in run.measurements:
            if m.area == AREA:
                records.setdefault(m.case, []).append(m)
        return cls(run, records)


def operation(case: Case) -> str:
    """The operation of a kernel's case."""
    return case.subjects[0].removeprefix(PREFIX)


def timed_cases() -> list[Case]:
    """The kernels' timed cases, in the table's order."""
    return [case for case in cases.load().values() if (case.area, case.bench) == (AREA, "timed")]


def is_mine(impl: str) -> bool:
    """Ours, or a kernel of somebody's own: what the others are set beside."""
    return impl == OURS or is_own(impl)


def found(run: KernelRun, case: Case, metric: str) -> Found:
    """A case's last record by implementation, ours first and one's own last; a value rather than a skip.

    A value stands against a later failure, as the commit is the same; not one's own, which may have been changed since.
    """
    here = [m for m in run.records.get(case.name, ()) if m.metric == metric and m.case_version == case.version]
    last = {
        m.impl: m for m in sorted(here, key=lambda m: m.status == "ok" or (is_own(m.impl) and m.status == "failed"))
    }
    order = [*(impl for impl in case.impls if impl in last), *(impl for impl in last if impl not in case.impls)]
    return {impl: last[impl] for impl in order}


def speed_tables(run: KernelRun, of: Ceilings, who: str = "") -> list[Table]:
    """One table per operation with a time or a failure. ``who`` names the run where there are several."""
    rows: dict[str, list[dict[str, Any]]] = {}
    mine: dict[str, list[str]] = {}
    for case in timed_cases():
        times = found(run, case, "time")
        if any(m.status != "skipped" for m in times.values()):
            rows.setdefault(operation(case), []).extend(case_rows(run, case, times, of))
            known = mine.setdefault(operation(case), [])
            known += [impl for impl in times if is_mine(impl) and impl not in known]
    return [speed_table(op, rows[op], mine[op], who) for op in rows]


def speed_table(op: str, rows: list[dict[str, Any]], mine: Sequence[str], who: str) -> Table:
    """Rows of one operation; columns that none of them fills are left out."""
    columns = (
        Column("case", "Case"), Column("impl", "Implementation"), Column("time", "Time, us", True),
        Column("whole", "With quantisation, us", True), Column("modelled", "Modelled, us", True),
        Column("flop_rate", "TFLOP/s", True), Column("bandwidth", "TB/s", True), Column("intensity", "FLOP/B", True),
        Column("share", "Of roofline", True), Column("bound", "Bound by"),
        *(Column(f"over {name}", f"Takes, over {name}", True) for name in mine),
        Column("energy", "Energy, mJ", True),
        Column("error", "Error, of allowed", True), Column("published", "Published elsewhere", below=True),
        Column("why", "Not timed because", below=True),
    )  # fmt: skip
    frame = pd.DataFrame([{column.key: row.get(str(column.key), "") for column in columns} for row in rows])
    told = tuple(column for column in columns if frame[column.key].astype(bool).any())
    note = "Over ours: above 1 takes longer than ours; intervals are the median's of paired rounds, at 95 %."
    if rows and any(row.get("modelled") for row in rows):
        compilers = ", ".join(sorted({row["compiler"] for row in rows if row.get("compiler")}))
        note += f" Modelled: what the code that {compilers} makes predicts for an H200, before any timing."
    return Table(f"{op}{who}", told, frame, note, limit=ALL)


def case_rows(run: KernelRun, case: Case, times: Found, of: Ceilings) -> Iterable[dict[str, Any]]:
    """A row per implementation of a case."""
    errors, joules = found(run, case, "error_of_bar"), found(run, case, "energy_per_call")
    published = speeds.of(operation(case), case.dimensions)
    for n, (impl, m) in enumerate(times.items()):
        row = {"case": told(case), "impl": impl, "why": f"{m.status}: {m.why}" if m.status != "ok" else ""}
        row["published"] = "; ".join(one.text for one in published) if n == 0 else ""
        if m.status == "ok":
            row |= rates(work.of(operation(case), case.dimensions), median(m.samples), of)
            error = errors.get(impl)
            row |= beside(run, case, impl, median(m.samples))
            if (drawn := joules.get(impl)) and drawn.samples:
                row["energy"] = fixed(drawn.samples[0] * 1e3)
            row["error"] = number(error.samples[0], 3) if error and error.samples else "not held to it"
            row |= {f"over {name}": over(run, m, times[name]) for name in times if is_mine(name) and name != impl}
        yield row


def beside(run: KernelRun, case: Case, impl: str, seconds: float) -> dict[str, str]:
    """Of our own kernel: its time with that of quantising its activations, and what its launch table predicted."""
    if impl != OURS:
        return {}
    row, shape = {}, case.dimensions
    if operation(case) == "fp8_gemm":
        of_input = {"M": shape["M"], "K": shape["K"]}
        for other in (
            one for one in timed_cases() if operation(one) == "quantize_tiles" and one.dimensions == of_input
        ):
            m = found(run, other, "time").get(OURS)
            if m and m.status == "ok" and other.shape.get("cold") == case.shape.get("cold"):
                row["whole"] = fixed((seconds + median(m.samples)) * 1e6)
    device = run.run.info["gpus"][0]["name"] if run.run.info["gpus"] else ""
    if modelled := predictions(operation(case), device).get(tuple(sorted(shape.items()))):
        row["modelled"], had = fixed(modelled[0] * 1e6), run.run.info["packages"].get("triton")
        row["compiler"] = f"Triton {modelled[1]}{f' (this run has {had})' if had not in (None, modelled[1]) else ''}"
    return row


@cache
def predictions(op: str, device: str) -> dict[tuple[tuple[str, int], ...], tuple[float, str]]:
    """(Seconds that an operation's launch table predicts, with which Triton), by shape; empty where it has none.

    The rows are the launcher's: those of the GPU's exact name where it was tuned, else those of every Hopper.
    """
    path = Path(str(kernels.__file__)).parent / "tables" / f"{op}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    own = [row for row in rows if row["device"] == device] or [row for row in rows if row["device"] == HOPPER]
    return {tuple(sorted(row["shape"].items())): (row["predicted"]["seconds"], row["triton"]) for row in own}


def told(case: Case) -> str:
    """A case's name, dimensions, and whether its L2 is flushed."""
    cold = ", cold L2" if case.shape.get("cold") else ""
    return f"{case.name}: {dimensions(case.dimensions)}{cold}"


def dimensions(shape: dict[str, int]) -> str:
    return " ".join(f"{key}={n}" for key, n in shape.items())


def rates(todo: work.Work, seconds: float, of: Ceilings) -> dict[str, str]:
    """Time, rates and the share of the roofline, as text."""
    reached = share(todo, seconds, of)
    return {
        "time": fixed(seconds * 1e6),
        "flop_rate": fixed(todo.flops / seconds * 1e-12, 1) if todo.flops else "",
        "bandwidth": fixed(todo.nbytes / seconds * 1e-12),
        "intensity": fixed(todo.flops / todo.nbytes, 1) if todo.flops else "",
        "share": f"{100 * reached[0]:.0f}%" if reached else "",
        "bound": reached[1] if reached else "",
    }


def over(run: KernelRun, m: Measurement, base: Measurement) -> str:
    """How many times as long as ``base`` a series takes, of one launch; or why nothing is claimed."""
    if base.status != "ok":
        return ""
    together = [b for b in run.records[m.case] if same_series(b, base) and b.launch == m.launch and b.clock == m.clock]
    if not together:
        return "no claim: not timed in one launch"
    claim = ratio_claim(m.samples, together[-1].samples)
    if isinstance(claim, str):
        return f"no claim: {claim}"
    interval = (
        "" if claim.low is None or claim.high is None else f" ({fixed(claim.low)}{HARD}to{HARD}{fixed(claim.high)})"
    )
    return f"{fixed(claim.median)}{HARD}{TIMES}{interval}"


def same_series(a: Measurement, b: Measurement) -> bool:
    """Two records of one series of times."""
    return (a.case, a.subject, a.impl, a.metric, a.status) == (b.case, b.subject, b.impl, b.metric, b.status)


def ceiling_table(run: KernelRun, of: Ceilings, who: str = "") -> Table:
    """What torch reaches on this GPU, and what a roofline is drawn at."""
    rows = []
    for m in (m for own in run.records.values() for m in own):
        kind = ceiling_of(m)
        if kind is not None:
            n = cases.load()[m.case].shape["n"]
            rows.append({"kind": kind, "size": f"n={n}", **rates(CEILINGS[kind].work(n), median(m.samples), of)})
    columns = (
        Column("kind", "Ceiling"), Column("size", "Size"), Column("time", "Time, us", True),
        Column("flop_rate", "TFLOP/s", True), Column("bandwidth", "TB/s", True),
    )  # fmt: skip
    frame = pd.DataFrame(rows, columns=[column.key for column in columns])
    drawn = {"copy": of.copy, "read": of.read, "bfloat16": of.bf16, "FP8": of.fp8}
    keys = ("copy", "read", "bf16", "fp8")
    said = [
        f"{name} {fixed(value * 1e-12)} T{'B' if key in ('copy', 'read') else 'FLOP'}/s ({of.source[key]})"
        for key, (name, value) in zip(keys, drawn.items(), strict=True) if value
    ]  # fmt: skip
    note = f"Rooflines are drawn at: {'; '.join(said)}." if said else "No ceiling of this device is known."
    return Table(f"Ceilings{who}", columns, frame, note)


def check_table(run: KernelRun, who: str = "") -> Table:
    """Every implementation's worst error over the shapes of a case: on the GPU, and interpreted."""
    rows = []
    for case in cases.load().values():
        if case.area == AREA and case.bench in ("checked", "interpreted"):
            for impl, m in found(run, case, "error_of_bar").items():
                if m.status == "skipped":
                    continue
                error = number(m.samples[0], 3) if m.status == "ok" else m.status
                how = m.convention if m.status == "ok" else m.why
                rows.append({"op": operation(case), "impl": impl, "error": error, "how": how, "case": case.name})
    columns = (
        Column("op", "Operation"), Column("impl", "Implementation"), Column("error", "Error, of allowed", True),
        Column("how", "Over what, or why it failed"), Column("case", "Case"),
    )  # fmt: skip
    note = (
        "Against float64 on the same quantised operands, the worst row of the worst shape, outputs poisoned with NaN; "
        "on a GPU, runs repeated bit for bit. 1 is all that rounding explains; 0 where the arithmetic is fixed."
    )
    frame = pd.DataFrame(rows, columns=[column.key for column in columns])
    return Table(f"Correctness{who}", columns, frame, note, limit=ALL)


def untimed_table(run: KernelRun, who: str = "") -> Table:
    """Of each operation the timed cases that have no time in the run, and why."""
    counted: dict[tuple[str, str], int] = {}
    for case in timed_cases():
        times = found(run, case, "time").values()
        if any(m.status != "skipped" for m in times):
            continue
        whys = dict.fromkeys(m.why for m in times)
        key = (operation(case), "; ".join(whys) or outside(run, case))
        counted[key] = counted.get(key, 0) + 1
    rows = [{"op": op, "cases": n, "why": why} for (op, why), n in counted.items()]
    columns = (Column("op", "Operation"), Column("cases", "Timed cases", True), Column("why", "Not timed because"))
    note = "v3bench run --only kernels --profile full times them on a machine with a Hopper GPU."
    return Table(f"Not timed in this run{who}", columns, pd.DataFrame(rows, columns=["op", "cases", "why"]), note)


def outside(run: KernelRun, case: Case) -> str:
    """Why a case has no record."""
    profiles = {segment["profile"] for segment in run.run.info["segments"]}
    if needs := case.elsewhere(run.run.info["device"]):
        return needs
    if not profiles & set(case.profiles):
        return f"belongs to the profile {', '.join(case.profiles)}"
    return "the run has not come to it" if profiles else MISSING
