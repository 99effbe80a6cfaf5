"""Tables of one or more runs: what was measured, what was not and why, and on what machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from v3bench.suite.meter.machine import device_name
from v3bench.suite.meter.measurement import AREAS
from v3bench.suite.report.display import TITLES, fixed, metric_unit, number, plain, with_unit
from v3bench.suite.report.frames import series_frame, untaken_frame
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.run_folder import Run, revision


def shown(series: pd.DataFrame) -> pd.DataFrame:
    """The frame with its values as text in each metric's own unit, and the facts that go together in one column."""
    rows = []
    for row in series.to_dict("records"):
        unit, factor = metric_unit(row["metric"])
        low, middle, high = (row[key] * factor for key in ("q1", "median", "q3"))
        rows.append(
            row
            | {
                "value": with_unit(in_column(middle), unit),
                "spread": f"{in_column(low)} to {in_column(high)}" if low < high else "",
                "basis_scale": together(row["basis"], row["scale"]),
                "setting": together(row["convention"], row["precision"]),
                "device_clock": together(row["device"], "" if row["clock"] == "none" else row["clock"]),
                "taken": number(row["rounds"]) + (f" in {row['launches']} launches" if row["launches"] > 1 else ""),
            }
        )
    return pd.DataFrame(rows)


def in_column(value: float) -> str:
    """A whole number in full, another with at least two decimals and four digits."""
    return number(value, zeros=True) if float(value).is_integer() or abs(value) < 10 else fixed(value)


def together(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def measured_tables(runs: Sequence[Run], records: pd.DataFrame) -> list[Table]:
    """One table per area that has values: median with quartiles, rounds, basis, scale, device, clock.

    The value comes second, what it depends on behind it: a phone shows the first columns only.
    """
    series = series_frame(runs, records)
    of_run = (Column("run", "Run", True, lambda value: number(value + 1)),) if len(runs) > 1 else ()
    columns = (
        Column("subject", "Subject"), Column("value", "Median", True), Column("spread", "q1 to q3", True),
        Column("metric", "Metric"), Column("setting", "Convention, precision"), Column("basis_scale", "Basis, scale"),
        Column("device_clock", "Device, clock"), Column("case", "Case"), Column("impl", "Implementation"),
        Column("taken", "Rounds", True), *of_run,
    )  # fmt: skip
    tables = []
    for area in (area for area in AREAS if area in set(series["area"])):
        of_area = series[series["area"] == area]
        frame = shown(of_area.head(Table.limit))
        told = tuple(column for column in columns if column.key != "spread" or frame["spread"].any())
        tables.append(Table(TITLES[area], told, frame, total=len(of_area)))
    return tables


def untaken_table(records: pd.DataFrame) -> Table:
    """What was skipped or failed, and why."""
    columns = (
        Column("area", "Area"), Column("status", "Status"), Column("why", "Reason"), Column("records", "Records", True),
        Column("subjects", "Subjects"), Column("cases", "Cases"),
    )  # fmt: skip
    return Table("Skipped and failed", columns, untaken_frame(records))


def environment_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per fact of run.json, one column per run."""
    return pd.DataFrame([facts(run.info) for run in runs]).T.rename_axis("fact").reset_index()


def facts(info: dict[str, Any]) -> dict[str, str]:
    """run.json as named lines of text: code, machine, packages, then what was run."""
    found = {
        "Code": revision(info),
        "Device": f"{info['device']}: {device_name(info)}",
        "CPU": f"{info['cpu']['model']}, {info['cpu']['cores']} cores, {gigabytes(info['cpu']['memory_bytes'])}",
    }
    for i, gpu in enumerate(info["gpus"]):
        found[f"GPU {i}"] = f"{gpu['name']}, {gigabytes(gpu['memory_bytes'])}, compute capability {gpu['capability']}"
        if gpu["sms"] and gpu["l2_bytes"]:
            found[f"GPU {i}"] += f", {gpu['sms']} SMs, {gpu['l2_bytes'] / 1e6:.0f} MB of L2"
    if not info["gpus"]:
        found["GPU"] = "none"
    found |= {"Driver": plain(info["driver"]), "Platform": info["platform"], "Python": info["python"]}
    found |= dict(sorted(info["packages"].items()))
    found["Lock, sha256"] = plain(info["lock_sha256"])
    return found


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def environment_table(runs: Sequence[Run]) -> Table:
    columns = (
        Column("fact", "Fact"),
        *(Column(i, f"Run {i + 1}" if len(runs) > 1 else "Value") for i in range(len(runs))),
    )
    return Table("Code, machine and packages", columns, environment_frame(runs))


def segments_table(runs: Sequence[Run]) -> Table:
    """Every launch: command, profile, areas, start, end, exit status."""
    rows = [{"run": i + 1, **segment} for i, run in enumerate(runs) for segment in run.info["segments"]]
    names = ["run", "command", "profile", "areas", "start", "end", "exit", "launch"]
    columns = (
        Column("run", "Run", True), Column("command", "Command"), Column("profile", "Profile"),
        Column("areas", "Areas"), Column("start", "Start"), Column("end", "End"), Column("exit", "Exit", True),
        Column("launch", "Launch"),
    )  # fmt: skip
    note = "A launch without an end was cut short; what it had measured is kept."
    return Table("Launches", columns, pd.DataFrame(rows, columns=names), note)


def warnings(runs: Sequence[Run]) -> list[str]:
    """What a reader must know of these runs before any number of theirs."""
    found = []
    for i, run in enumerate(runs):
        who = f"Run {i + 1}" if len(runs) > 1 else "This run"
        if run.info["dirty"]:
            what = f"was measured with uncommitted changes in the code ({revision(run.info)})"
            found.append(f"{who} {what}: the commit alone does not reproduce it.")
        elif run.info["commit"] is None:
            found.append(f"{who} was measured outside a checkout: no commit names its code.")
        if any(segment["end"] is None for segment in run.info["segments"]):
            found.append(f"{who} was cut short: what it had measured is kept.")
        if failed := sum(m.status == "failed" for m in run.measurements):
            what = "1 failed measurement" if failed == 1 else f"{failed} failed measurements"
            found.append(f"{who} has {what}; the reasons stand under Measurements.")
        # Where the folder lies is no part of what it says.
        found += [f"{who}: {message.rpartition(': ')[2]}." for message in run.messages]
    return found
