"""Paired runs of training as a run folder keeps them: what pairs, where in the runs the gap lies, and its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

import pandas as pd
from v3bench.suite.ledger import cases
from v3bench.suite.ledger.cases import Case
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.report.current import current
from v3bench.suite.report.display import number
from v3bench.suite.report.tables import Column, Table
from v3bench.suite.train.pairs import base_of, gaps, late
from v3bench.suite.train.schedule import LAST, rate_at

FLOOR = "bf16"
LABELS = {FLOOR: "bf16 against fp32 (floor)"}
CONTEXT = "context, never the floor"


@dataclass
class Paired:
    """What a run has of one case on one text: results on different texts are never held against each other."""

    case: Case
    corpus: str  # how its hash begins; "" where the records do not say
    alone: bool = True  # whether the case has no other text in the run
    gaps: dict[str, tuple[float, ...]] = field(default_factory=dict)  # recipe -> a late gap for each seed
    runs: dict[tuple[str, int], tuple[float, ...]] = field(default_factory=dict)  # recipe, seed -> losses

    @property
    def name(self) -> str:
        """As captions call it."""
        return self.case.name if self.alone else f"{self.case.name}, corpus {self.corpus}"

    @property
    def anchor(self) -> str:
        """As a chart is called on the page."""
        return self.case.name if self.alone else f"{self.case.name}-{self.corpus}"

    @property
    def shared(self) -> int:
        """Steps in FP32 before the runs of a seed part."""
        return int(self.case.shape.get("shared", 0))

    @property
    def where(self) -> str:
        """Which steps a pair differs in, for a caption."""
        last = self.case.shape["steps"]
        return f"over the last {last} of {self.shared + last} steps" if self.shared else "from the first step"

    @property
    def about(self) -> str:
        """What the runs share, and in what they differ."""
        shape, shared = self.case.shape, self.shared
        steps = shared + shape["steps"]
        first, last = (
            rate_at(n, steps=steps, rate=shape["rate"], warmup=shape.get("warmup", 0), last=shape.get("last", LAST))
            for n in (shared, steps - 1)
        )
        size = f"steps of {shape['batch']} × {shape['length']} tokens"
        if not shared:
            return (
                f"{steps} {size}; the runs of a seed begin from the same weights and differ from the first step, with "
                f"a learning rate of at most {number(shape['rate'])}."
            )
        return (
            f"{steps} {size}: the first {shared} in FP32, common to all runs of a seed; a pair differs in the last "
            f"{shape['steps']} alone, whose learning rate goes from {number(first, 2)} to {number(last, 2)}, of at "
            f"most {number(shape['rate'])}. What FP8 does to the learning before them, these runs cannot show."
        )

    def windows(self, run: tuple[str, int], other: tuple[str, int]) -> list[float] | None:
        """The gaps of a run against another, window by window after the shared steps; None where either is lacking."""
        mine, theirs = self.runs.get(run), self.runs.get(other)
        window = self.case.shape["window"]
        if not mine or not theirs or len(mine) != len(theirs) or len(mine) - self.shared < 2 * window:
            return None
        return gaps(mine[self.shared :], theirs[self.shared :], window)


def told(recipe: str) -> str:
    """A recipe as the chart calls it."""
    return LABELS.get(recipe, recipe)


def paired(records: Sequence[Measurement]) -> list[Paired]:
    """What a run has of each case and text."""
    found: dict[tuple[str, str], Paired] = {}
    for m in current(records, bench="loss_gap"):
        head, _, text = m.convention.rpartition("corpus ")
        own = found.setdefault((m.case, text), Paired(cases.load()[m.case], text))
        recipe, seed = m.subject.partition(".")[2], head.removeprefix("seed ").partition(";")[0]
        if m.metric == "loss_gap":
            own.gaps[recipe] = m.samples
        elif m.metric == "run_loss" and head.startswith("seed ") and seed.isdecimal():  # not that of held-out text
            own.runs[recipe, int(seed)] = m.samples
    judged = [one for one in found.values() if one.gaps]
    for one in judged:
        one.alone = sum(other.case.name == one.case.name for other in judged) == 1
    return judged


def window_table(one: Paired, who: str) -> Table:
    """A row for each window of steps, a column for each recipe: the gap's mean over the seeds."""
    means: dict[str, list[float]] = {}
    seeds = sorted({seed for _, seed in one.runs})
    for recipe in one.gaps:
        by_seed = [row for seed in seeds if (row := one.windows((recipe, seed), (base_of(recipe), seed))) is not None]
        if by_seed:
            means[recipe] = [fmean(at) for at in zip(*by_seed, strict=True)]
    width = one.case.shape["window"]
    count = max(map(len, means.values()), default=0)
    rows = [
        {"steps": f"{one.shared + n * width + 1} to {one.shared + (n + 1) * width}"}
        | {recipe: values[n] for recipe, values in means.items()}
        for n in range(count)
    ]
    columns = (Column("steps", "Steps"), *(Column(name, f"{told(name)}, %", True, signed) for name in means))
    note = f"Mean over the seeds of the signed relative difference of training loss in each window. {one.about}"
    return Table(f"Gap by window, {one.name}{who}", columns, pd.DataFrame(rows, columns=[c.key for c in columns]), note)


def context_table(one: Paired, who: str) -> Table:
    """The sizes of the floor's gaps beside those between BF16's runs of different seeds."""
    seeds = sorted(seed for recipe, seed in one.runs if recipe == FLOOR)
    between = [row for i, j in combinations(seeds, 2) if (row := one.windows((FLOOR, i), (FLOOR, j))) is not None]
    sizes = {
        LABELS[FLOOR]: [abs(value) for value in one.gaps.get(FLOOR, ())],
        f"bf16 against bf16 of another seed ({CONTEXT})": [abs(late(row)) for row in between],
    }
    rows = [
        {"runs": name, "pairs": len(found), "mean": fmean(found), "least": min(found), "most": max(found)}
        for name, found in sizes.items() if found
    ] if between else []  # fmt: skip
    columns = (
        Column("runs", "Runs"), Column("pairs", "Pairs", True), Column("mean", "Mean size, %", True, unsigned),
        Column("least", "Smallest, %", True, unsigned), Column("most", "Largest, %", True, unsigned),
    )  # fmt: skip
    note = (
        "Relative difference of training loss without its sign, mean of the second half of the steps in which pairs "
        "differ. Another seed is both another initialisation and another order of the data; no outcome rests on it."
    )
    frame = pd.DataFrame(rows, columns=[c.key for c in columns])
    return Table(f"Floor and other seeds, {one.name}{who}", columns, frame, note)


def signed(share: float) -> str:
    """A signed share in percent, three decimals."""
    return f"{100 * share:+.3f}".replace("-", "−")


def unsigned(share: float) -> str:
    """A share in percent, three decimals."""
    return f"{100 * share:.3f}"
