"""The backward of an expert's weighted activation z = g SiLU(gate) up (swiglu_quantize.py with weights), recomputed.

    reference             the definition
    kernel                Triton
    gated_swiglu_backward launcher

As in the V3 report (sections 3.2.3 and 3.3.3) the activation is not kept between forward and backward but made again
from its input; it comes out besides, as the weight gradient wants it. The order of a row's sum is fixed.

R rows by expert, padding among them  F inner width  T tokens  K choices per token
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks
from v3bench.kernels.casts import narrow
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.quantize import WIDE
from v3bench.kernels.sigmoid import sigmoid

OP = "gated_swiglu_backward"
NEEDS = checks.AMPERE
# Four rows of 256 columns: 8 elements a thread of each of 3 inputs in flight, loads and stores of 16 bytes.
CONFIG: Config = {"ROWS": 4, "COLUMNS": 256, "num_warps": 4}


def reference(gate_up: Tensor, dz: Tensor, gates: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """gate_up (R, 2F), dz (R, F), gates (T K) float32, pairs int32 (R): the choice of each row, -1 for padding
    -> d gate_up (R, 2F), z (R, F), d gates (T K); zero in padding, whatever stands there."""
    there = (pairs >= 0)[:, None]
    wide = torch.promote_types(gate_up.dtype, torch.float32)
    gate, up = gate_up.to(wide).masked_fill(~there, 0.0).chunk(2, 1)
    dz, weight = dz.to(wide).masked_fill(~there, 0.0), gates.to(wide)[pairs.long().clamp(min=0)][:, None] * there
    s = torch.sigmoid(gate)
    y, dy = gate * s * up, dz * weight
    d_gate_up = torch.cat((dy * up * s * (1 + gate * (1 - s)), dy * gate * s), 1)
    d_gates = torch.zeros(len(gates) + 1, dtype=wide, device=gates.device)
    d_gates[torch.where(pairs < 0, len(gates), pairs).long()] = (dz * y).sum(1)
    return d_gate_up.to(gate_up.dtype), (weight * y).to(gate_up.dtype), d_gates[:-1].to(gates.dtype)


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    gate_up_ptr, dz_ptr, gates_ptr, pairs_ptr, d_gate_up_ptr, z_ptr, d_gates_ptr, N, R, F,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: ROWS rows, COLUMNS at a time."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    pair = tl.load(pairs_ptr + rows, mask=rows < R, other=-1)
    weight = tl.load(gates_ptr + pair, mask=(pair >= 0) & (pair < N), other=float("nan"))[:, None]
    weight = tl.where((pair >= 0)[:, None], weight, 0.0)
    wide, narrower = rows.to(tl.int64)[:, None] * 2 * F, rows.to(tl.int64)[:, None] * F
    along = tl.zeros((ROWS,), tl.float32)
    for start in range(0, F, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)[None, :]
        inside = (rows < R)[:, None] & (columns < F)
        held = inside & (pair >= 0)[:, None]
        gate = tl.load(gate_up_ptr + wide + columns, mask=held, other=0.0).to(tl.float32)
        up = tl.load(gate_up_ptr + wide + F + columns, mask=held, other=0.0).to(tl.float32)
        dz = tl.load(dz_ptr + narrower + columns, mask=held, other=0.0).to(tl.float32)
        s = sigmoid(gate)
        y = gate * s * up
        along += tl.sum(dz * y, 1)
        dy = dz * weight
        d_gate = dy * up * s * (1.0 + gate * (1.0 - s))
        tl.store(d_gate_up_ptr + wide + columns, narrow(d_gate, d_gate_up_ptr.dtype.element_ty), mask=inside)
        tl.store(d_gate_up_ptr + wide + F + columns, narrow(dy * gate * s, d_gate_up_ptr.dtype.element_ty), mask=inside)
        tl.store(z_ptr + narrower + columns, narrow(weight * y, z_ptr.dtype.element_ty), mask=inside)
    tl.store(d_gates_ptr + pair, along, mask=(pair >= 0) & (pair < N))


def launches(
    gate_up: Tensor,
    dz: Tensor,
    gates: Tensor,
    pairs: Tensor,
    d_gate_up: Tensor,
    z: Tensor,
    d_gates: Tensor,
    *,
    config: Config = CONFIG,
) -> tuple[Launch, ...]:
    """As the launcher's arguments and results."""
    (R, F), (blocks, options) = dz.shape, split(config)
    args = {
        "gate_up_ptr": gate_up, "dz_ptr": dz, "gates_ptr": gates, "pairs_ptr": pairs, "d_gate_up_ptr": d_gate_up,
        "z_ptr": z, "d_gates_ptr": d_gates, "N": len(gates), "R": R, "F": F, **blocks,
    }  # fmt: skip
    return (Launch(kernel, (cdiv(R, blocks["ROWS"]),), args, options),)


def gated_swiglu_backward(
    gate_up: Tensor, dz: Tensor, gates: Tensor, pairs: Tensor, *, config: Config = CONFIG
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``reference``; a choice without a row has the gradient 0, a row of a choice that there is not is NaN.

    Raises ValueError.
    """
    checks.tensor(OP, "dz", dz, WIDE, (None, None), contiguous=True, aligned=False)
    R, F = dz.shape
    checks.tensor(OP, "gate_up", gate_up, dz.dtype, (R, 2 * F), contiguous=True, aligned=False)
    checks.tensor(OP, "gates", gates, torch.float32, (None,), contiguous=True, aligned=False)
    checks.tensor(OP, "pairs", pairs, torch.int32, (R,), contiguous=True, aligned=False)
    checks.device(OP, NEEDS, gate_up, dz, gates, pairs)
    d_gate_up, z, d_gates = torch.empty_like(gate_up), torch.empty_like(dz), torch.zeros_like(gates)
    if not dz.is_meta:
        run(launches(gate_up, dz, gates, pairs, d_gate_up, z, d_gates, config=config))
    return d_gate_up, z, d_gates
