"""What every shipped launch configuration, and every form of a launch, must hold of its compiled code: no GPU needed.

It compiles, spills nothing, fits the shared memory of an SM, uses the matrix instructions it is meant to use, adds up
in float32 every 128 products where it is meant to, and has the grid, occupancy and instructions that its row says. A
form of kernels/forms.py has no row: it is launched with its launcher's choice, and must hold the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from v3bench.kernels import forms, tables
from v3bench.kernels.triton_ops import FEW
from v3bench.suite.laws import work
from v3bench.suite.laws.prediction import predict
from v3bench.suite.meter.compiled import Built, Job, Outcome

PROMOTED = 128  # products summed in a tensor core before the sum goes to float32
INSTRUCTIONS = 0.05  # by which a count may differ from the table's, which is rounded
MATRIX = ("QGMMA", "HGMMA", "HMMA")


# The matrix instruction of each operation that has products; the others must have none.
MEANT: Mapping[str, str] = {
    "fp8_gemm": "QGMMA",
    "fp8_gemm_wgrad": "QGMMA",
    "grouped_fp8_gemm": "QGMMA",
    "masked_fp8_gemm": "QGMMA",
    "grouped_fp8_wgrad": "QGMMA",
    "paged_mla": "HGMMA",
    "paged_mla_fp8": "HGMMA",
    "mla_prefill": "HGMMA",
    "mla_prefill_backward": "HGMMA",
    "paged_gqa": "HGMMA",
    "paged_gqa_fp8": "HGMMA",
    # Launchers that have no table of their own.
    "attention": "HGMMA",
    "attention_backward": "HGMMA",
    "mla_decode": "HGMMA",
}
FP8 = ("fp8_gemm", "grouped_fp8_gemm", "masked_fp8_gemm")  # float32 is what comes out of their products
WARPGROUP = 64  # rows of its matrix instruction


def jobs(op: str) -> list[tuple[tables.Row, Job]]:
    """The table's rows with what has to be compiled for each."""
    return [(row, Job(op, row.shape, row.config)) for row in tables.rows(op)]


def wrong(op: str, row: tables.Row, outcome: Outcome) -> list[str]:
    """What a compiled row does not hold, in words; none when all is well.

    Where the Triton that made the row compiled it, the row's figures must come out too.
    """
    if isinstance(outcome, str):
        return [f"does not compile: {outcome}"]
    found = [f"{launch.name} {what}" for launch in outcome for what in misfits(launch)]
    found += matrix({MEANT[op]} if op in MEANT else set(), outcome)
    return found + (changed(op, row, outcome) if same_compiler(row, outcome) else [])


def form_jobs(launcher: str) -> list[Job]:
    """What has to be compiled for the forms of a launcher."""
    return [Job(launcher, form, None) for form in forms.FORMS[launcher]]


def wrong_form(launcher: str, form: forms.Form, outcome: Outcome) -> list[str]:
    """What a compiled form does not hold, in words; none when all is well."""
    if isinstance(outcome, str):
        return [f"does not compile: {outcome}"]
    if not outcome:
        return ["launches nothing"]
    found = [f"{launch.name} {what}" for launch in outcome for what in misfits(launch)]
    return found + matrix(instructions(launcher, form), outcome)


def instructions(launcher: str, form: forms.Form) -> set[str]:
    """The matrix instructions that a form is meant to use."""
    if form["dtype"] == "float32" and launcher not in FP8:
        return set()  # multiplied exactly
    # Where a product has fewer rows than a warpgroup's instruction it takes a warp's own, of 16.
    if launcher == "attention" and FEW < form["S"] < WARPGROUP:
        return {"HMMA"}
    narrow = form.get("S", WARPGROUP) <= FEW and form.get("C", form.get("v", 0)) < WARPGROUP  # channels are its rows
    return {MEANT[launcher], "HMMA"} if narrow else {MEANT[launcher]}


def same_compiler(row: tables.Row, launches: Sequence[Built]) -> bool:
    """Whether the launches were compiled by the Triton that made the row."""
    return all(launch.triton == row.triton for launch in launches)


def misfits(launch: Built) -> list[str]:
    """Spilled registers, too much shared memory."""
    found = [f"spills {launch.stack_bytes} bytes of registers"] if launch.spills else []
    return (
        found if launch.ctas_per_sm else [*found, f"does not fit an SM: {launch.shared_bytes} bytes of shared memory"]
    )


def matrix(meant: set[str], launches: Sequence[Built]) -> list[str]:
    """The wrong matrix instructions, or sums that stay in the tensor cores too long."""
    # What counts is the loop that works: a ragged end may take another instruction.
    codes = [launch.loop if meant and launch.loop else launch.instructions for launch in launches]
    used = {name for code in codes for name in MATRIX if code.get(name)}
    found = [] if used == meant else [f"uses {sorted(used) or 'no matrix instructions'}, meant are {sorted(meant)}"]
    for launch in launches:
        if not launch.instructions.get("QGMMA"):
            continue
        # Each sum of 128 products (256 FLOPs) has to be added once by a thread.
        sums, adds = launch.loop_flops / (2 * PROMOTED), launch.loop.get("FFMA", 0) + launch.loop.get("FADD", 0)
        if adds * 32 * launch.warps < sums:
            found.append(
                f"{launch.name} adds {adds * 32 * launch.warps} times in float32 for {sums:.0f} sums of 128 products"
            )
    return found


def changed(op: str, row: tables.Row, launches: Sequence[Built]) -> list[str]:
    """Where the compiled code no longer is what the table's row says of it."""
    from v3bench.suite.tune import machine

    todo = work.of(op, row.shape)
    now: dict[str, Any] = predict(todo, launches, machine()).as_json(todo)
    exact = [name for name in ("flops", "bytes", "programs", "ctas_per_sm") if now[name] != row.predicted[name]]
    ours, table = now["instructions_per_element"], row.predicted["instructions_per_element"]
    if abs(ours - table) > INSTRUCTIONS * table:
        exact.append("instructions_per_element")
    return [f"{name} is {now[name]}, the table says {row.predicted[name]}: run v3bench tune {op}" for name in exact]
