"""Measurements as pandas frames: one row per series, its median and quartiles over all rounds and launches.

Values stay SI and unrounded; showing them is for the tables that are made from these frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter

import numpy as np
import pandas as pd
from v3bench.suite.meter.measurement import AREAS
from v3bench.suite.run_folder import Run

# What makes two records rounds of the same series: everything but the launch and the outcome.
SERIES = (
    "area", "subject", "impl", "case", "case_version", "metric", "basis", "scale", "convention", "precision", "device",
    "clock",
)  # fmt: skip
COLUMNS = (*SERIES, "launch", "status", "why")


def measurements_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Every record of every run, one row each; ``run`` numbers the run, ``samples`` counts its rounds."""
    records = [m for run in runs for m in run.measurements]
    numbers = np.repeat(np.arange(len(runs)), [len(run.measurements) for run in runs])
    rows = map(attrgetter(*COLUMNS), records)
    frame = pd.DataFrame.from_records(list(rows), columns=list(COLUMNS))
    frame.insert(0, "run", numbers)
    frame["rounds"] = np.fromiter((len(m.samples) for m in records), dtype=np.int64, count=len(records))
    for name in ("area", "basis", "scale", "device", "clock", "status"):
        frame[name] = frame[name].astype("category")
    return frame


def series_frame(runs: Sequence[Run], records: pd.DataFrame) -> pd.DataFrame:
    """One row per series of each run that has samples: median, q1 and q3 over all of them, rounds and launches.

    Launches are pooled: a series measured in three processes is one row over all its rounds.
    """
    keys = ["run", *SERIES]
    found = records[records["rounds"] > 0].copy()
    if found.empty:
        return pd.DataFrame(columns=[*keys, "median", "q1", "q3", "rounds", "launches"])
    found["series"] = found.groupby(keys, sort=False, observed=True).ngroup()
    samples = chain.from_iterable(m.samples for run in runs for m in run.measurements)
    values = np.fromiter(samples, dtype=np.float64, count=int(found["rounds"].sum()))
    of = np.repeat(found["series"].to_numpy(), found["rounds"].to_numpy())
    rows = found.groupby("series", sort=False)
    result = found.drop_duplicates("series")[keys].reset_index(drop=True)
    result[["q1", "median", "q3"]] = quartiles(values, of)
    result["rounds"] = rows["rounds"].sum().to_numpy()
    result["launches"] = rows["launch"].nunique().to_numpy()
    return in_order(result)


def quartiles(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Quartiles of each group, groups numbered from 0 without a gap: [groups, 3], linear between samples."""
    counts = np.bincount(group)
    # By value, then stably by group: with a small integer type the second is a radix sort, four times faster.
    order = np.argsort(values)
    small = group.astype(np.min_scalar_type(len(counts)))
    values = values[order[np.argsort(small[order], kind="stable")]]
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    at = starts[:, None] + (counts[:, None] - 1) * np.array([0.25, 0.5, 0.75])
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, (starts + counts - 1)[:, None])
    part = at - low
    between = values[low] * (1 - part) + values[high] * part
    exact: np.ndarray = np.where(values[low] == values[high], values[low], between)  # equal samples give that value
    return exact


def untaken_frame(records: pd.DataFrame) -> pd.DataFrame:
    """What was skipped or failed, by reason: area, status, why, how many records, and which subjects and cases."""
    frame = records[records["status"] != "ok"].astype({"area": str, "status": str})
    grouped = frame.groupby(["run", "area", "status", "why"], sort=False)
    result = grouped.agg(records=("case", "size"), subjects=("subject", listed), cases=("case", listed)).reset_index()
    return in_order(result.sort_values("status", kind="stable"))  # failed before skipped


def listed(names: pd.Series, most: int = 6) -> str:
    """The distinct names in order of first sight; of many, the first few and how many more."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - most} more" if len(distinct) > most else ""
    return ", ".join(distinct[:most]) + more


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by area, areas in the suite's order; within one, as they were recorded."""
    area = frame["area"].astype(str)
    rank = area.map({name: i for i, name in enumerate(AREAS)}).to_numpy()
    return frame.assign(area=area).iloc[np.argsort(rank, kind="stable")].reset_index(drop=True)
