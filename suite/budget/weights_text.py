"""A budget of released weights as lines for a terminal: by kind of matrix, by layer, and the worst matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from v3bench.suite.budget.weight_budget import CODES, EXPORT, RELEASE, Budget, Figures, Row, total, values

WORST, NAMED = 10, 20  # lines at most


def percent(value: float) -> str:
    """A share with three decimals."""
    return f"{100 * value:.3f} %"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.3g} x"


Column = tuple[str, Callable[[Mapping[str, Any]], float | None], Callable[[float], str]]


def figure(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    """One of the figures."""
    return lambda figures: figures[name]


def of_worst_block(figures: Mapping[str, Any]) -> float | None:
    """The error of the worst block."""
    return None if figures["worst_block"] is None else float(figures["worst_block"]["relative_error"])


ERRORS: list[Column] = [
    ("error", figure("relative_error"), percent),
    ("cosine", figure("cosine"), "{:.6f}".format),
    ("flushed", figure("flushed"), percent),
    ("worst block", of_worst_block, percent),
]
COLUMNS: dict[str, list[Column]] = {
    EXPORT: ERRORS,
    RELEASE: [
        *ERRORS,
        ("our export's", figure("own_relative_error"), percent),
        ("codes equal", figure("equal_codes"), percent),
        ("scales equal", figure("equal_scales"), percent),
    ],
    CODES: [
        ("range used", figure("range_used"), percent),
        ("least of a block", figure("least_range_used"), percent),
        ("zero", figure("zero"), percent),
        ("subnormal", figure("subnormal"), percent),
        ("largest", figure("largest"), percent),
        ("scales' spread", figure("scale_spread"), times),
        ("bound", figure("bound"), percent),
    ],
}
EXPLAINED = {
    EXPORT: [
        "The error that the export in V3's layout would have: E4M3, a float32 scale per 128 x 128 block.",
        "error: root mean square of what is off over that of the weights. flushed: of those other than zero.",
    ],
    RELEASE: [
        "The true error of the FP8 weights, and beside it what this project's export of the original would have.",
        "error: root mean square of what is off over that of the original. flushed: of those other than zero.",
    ],
    CODES: [
        "How the codes use their range, without the original: no error can be known.",
        "bound: no error is above it if each code is the nearest to what it stands for and none was clipped.",
        "range used: the largest code of a block over 448, on average. largest: codes of 448.",
    ],
}


def lines(found: Budget) -> list[str]:
    """The whole account."""
    kinds, layers = found.by_kind(), found.by_layer()
    named = [f"layer {n}{' (MTP)' if n >= found.layers else ''}" if n is not None else "outside" for n in layers]
    worst = {row.matrix.name: [row] for row in found.worst[:WORST]}
    width = max(map(len, (*kinds, *worst, "matrices", "not finite"))) + 2
    against = f" against {found.against}" if found.against else ""
    out = [f"{found.checkpoint}{against} ({found.architecture})", *EXPLAINED[found.measure], ""]
    out += table("kind", kinds, found, width)
    out += [*table("", {"all": found.clean} if kinds else {}, found, width)[1:], ""]
    out += [*table("layer", dict(zip(named, layers.values(), strict=True)), found, width), ""]
    out += table("worst matrices", worst, found, width)
    return [*out, "", *remarks(found)]


def table(title: str, groups: Mapping[str, Sequence[Row]], found: Budget, width: int) -> list[str]:
    """A line for each group below the columns' names."""
    columns = COLUMNS[found.measure]
    names = "".join(f"{name:>{wide(name)}}" for name, _, _ in columns)
    out = [f"{title:<{width}}{'matrices':>9}{'values':>16}{names}"]
    for name, rows in groups.items():
        figures: Figures = total(rows)
        shown = "".join(f"{cell(column, figures.as_json()):>{wide(column[0])}}" for column in columns)
        out.append(f"{name:<{width}}{len(rows):>9}{sum(values(row.matrix) for row in rows):>16,}{shown}")
    return out


def wide(name: str) -> int:
    """Characters of a column: its name, or "100.000 %", and two before it."""
    return max(len(name), 9) + 2


def cell(column: Column, figures: Mapping[str, Any]) -> str:
    """A figure in words, or a dash where it is not defined."""
    value = column[1](figures)
    return "–" if value is None else column[2](value)


def remarks(found: Budget) -> Iterator[str]:
    """What stays out of the figures: tensors that are not FP8, and those that are not finite."""
    blocks = [figures["worst_block"] for row in found.worst if (figures := row.figures.as_json()).get("worst_block")]
    if blocks:
        top = max(blocks, key=lambda block: block["relative_error"])
        yield f"worst block: row {top['row']}, column {top['column']} of {top['tensor']}"
    others = f"{found.kept['tensors']} tensors are not FP8 (embedding, head, gates, norms, biases)"
    yield f"{others}: compared with the original's" if found.measure == RELEASE else f"{others}: not measured"
    for key, text in DIFFERENT.items():
        names = found.kept.get(key, [])
        yield from (f"{text}: {name}" for name in names[:NAMED])
        if len(names) > NAMED:
            yield f"{text}: {len(names) - NAMED} more"
    for row in found.not_finite:
        yield f"not finite: {row.matrix.name} holds {row.faults.nan} NaN and {row.faults.infinite} infinite values"


DIFFERENT = {
    "differing": "differs from the original",
    "only_in_checkpoint": "not in the original",
    "only_in_original": "only in the original",
}
