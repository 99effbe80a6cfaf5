"""Measures of released weights: what FP8 makes of each matrix of a checkpoint, read a band of rows at a time.

of_export    a BF16 folder: the error that its export in V3's layout would have
of_release   an FP8 folder beside its BF16 original: the true error, and what our export would have made of it
of_codes     an FP8 folder alone: how its codes use their range, and a bound on the error, which is no error
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from v3bench.kernels.block_quant import dequantize
from v3bench.model_ref.checkpoint_export import BLOCK, V3, Matrix, quantize
from v3bench.model_ref.errors import BadInput
from v3bench.suite.budget.code_range import Range
from v3bench.suite.budget.weight_budget import CODES, EXPORT, RELEASE, Budget, Faults, Row, values
from v3bench.suite.budget.weight_figures import Compared, Exported
from v3bench.suite.meter.progress import Reading
from v3bench.suite.released import Released, bands, same

Say = Callable[[str], None]


def measure(folder: str | Path, against: str | Path | None = None, say: Say = lambda line: None) -> Budget:
    """What a folder allows to be measured: see the module. Raises BadInput, naming file and tensor."""
    with Released(folder) as source:
        if against is None:
            return of_codes(source, say) if source.coded else of_export(source, say)
        if not source.coded:
            what = "holds no FP8 weights, so that nothing can be off --against an original"
            raise BadInput(what, where=str(folder), right="the FP8 folder first, its original after --against")
        with Released(against) as original:
            return of_release(source, original, say)


def of_export(source: Released, say: Say) -> Budget:
    """The error that the export of a folder without FP8 would have."""
    chosen = source.in_order(matrix for matrix in source.matrices.values() if matrix.in_fp8)

    def one(matrix: Matrix, found: Exported, faults: Faults) -> None:
        for first, last in bands(matrix.shape, BLOCK[0]):
            want = source.values(matrix, first, last)
            if faults.none_in(want):
                found.sums.add(V3(want), want, BLOCK, matrix.name, first)

    kept = {"tensors": len({*source.kept} - {matrix.name for matrix in chosen})}
    return budget(EXPORT, source, BLOCK, rows_of(chosen, Exported, one, say), kept)


def of_release(source: Released, original: Released, say: Say) -> Budget:
    """The true error of a folder in FP8. Raises BadInput where the other one is not its original."""
    check_original(source, original)
    block, height = source.block, source.block[0]

    def one(matrix: Matrix, found: Compared, faults: Faults) -> None:
        ours = block == BLOCK and matrix.in_fp8
        other = original.matrices[matrix.name]
        for first, last in bands(matrix.shape, height):
            codes, scales = source.codes(matrix, first, last), source.scales(matrix, first, last)
            want = original.values(other, first, last)
            if not faults.none_in(codes.float(), scales, want):
                continue
            found.sums.add(dequantize(codes, scales, torch.float32, block), want, block, matrix.name, first)
            if ours:
                own, own_scales = quantize(want)
                found.own.add(dequantize(own, own_scales, torch.float32), want, BLOCK, matrix.name, first)
                found.beside((codes, own), (scales, own_scales))

    rows = rows_of(source.coded, Compared, one, say)
    return budget(RELEASE, source, block, rows, kept_beside(source, original), str(original.folder))


def of_codes(source: Released, say: Say) -> Budget:
    """How the codes of a folder in FP8 use their range."""

    def one(matrix: Matrix, found: Range, faults: Faults) -> None:
        for first, last in bands(matrix.shape, source.block[0]):
            codes, scales = source.codes(matrix, first, last).float(), source.scales(matrix, first, last)
            if faults.none_in(codes, scales):
                found.add(codes, scales, source.block)

    return budget(CODES, source, source.block, rows_of(source.coded, Range, one, say), {"tensors": len(source.kept)})


def rows_of(chosen: Sequence[Matrix], kind: Any, one: Callable[..., None], say: Say) -> list[Row]:
    """``one(matrix, figures, faults)`` of each matrix, in the order of the model afterwards; says how far it is."""
    progress, found = Reading("weights", sum(map(values, chosen)), say), []
    for matrix in chosen:
        row = Row(matrix, kind(), Faults())
        one(matrix, row.figures, row.faults)
        found.append(row)
        progress(values(matrix))
    return found


def budget(
    measure: str, source: Released, block: tuple[int, int], rows: Iterable[Row], kept: dict[str, Any],
    against: str | None = None,
) -> Budget:  # fmt: skip
    """The rows in the order of the model, with what they are of."""
    place = {name: n for n, name in enumerate(source.matrices)}
    ordered = sorted(rows, key=lambda row: place[row.matrix.name])
    config = source.config
    return Budget(
        measure, str(source.folder), against, config.model_type, config.num_hidden_layers, block, ordered, kept
    )


def check_original(source: Released, original: Released) -> None:
    """Raise BadInput unless every matrix in FP8 has its like in the other folder, not in FP8."""
    where, then, now = str(original.folder), original.config.model_type, source.config.model_type
    if then != now:
        raise BadInput(f"is a {then}", where=where, right=f"the original of {source.folder}, a {now}")
    if original.coded:
        raise BadInput("is FP8 itself", where=where, right=f"the BF16 original of {source.folder}")
    for matrix in source.coded:
        other = original.matrices.get(matrix.name)
        if other is None:
            right = f"the original of {source.folder}, which has it"
            raise BadInput(f"lacks tensor {matrix.name!r}", where=where, right=right)
        if other.shape != matrix.shape:
            what, right = f"has shape {list(other.shape)}", f"{list(matrix.shape)}, as in {source.folder}"
            raise BadInput(what, where=original.files.stored[other.stored].where, right=right)


def kept_beside(source: Released, original: Released) -> dict[str, Any]:
    """What is not FP8: tensors that differ from the original's, and those that only one folder has."""
    coded = {matrix.name for matrix in source.coded}
    ours, theirs = {*source.kept}, {*original.kept} - coded
    return {
        "tensors": len(ours),
        "differing": sorted(name for name in ours & theirs if not same(source.read(name), original.read(name))),
        "only_in_checkpoint": sorted(ours - theirs),
        "only_in_original": sorted(theirs - ours),
    }
