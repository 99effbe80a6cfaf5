"""The FP8 product without promotion: summed inside the tensor cores over all of K (V3 report, section 3.5.2).

    reference              the definition: the exact product
    kernel                 Triton
    fp8_gemm_unpromoted    launcher

Nothing is scaled, as a scale could only be applied where the sum is promoted. Beside fp8_gemm with scales of one it
shows what promotion every 128 columns is worth: the report names an error near 2 % at K = 4096 without it. That
takes a Hopper GPU: the interpreter adds in float32.

M, N rows of both operands  K columns
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks
from v3bench.kernels.fp8_tiles import descriptor, place
from v3bench.kernels.launch import Config, Launch, cdiv, run, split
from v3bench.kernels.quantize import FP8, TILE

OP = "fp8_gemm_unpromoted"
CONFIG: Config = {"BLOCK_M": 128, "BLOCK_N": 128, "GROUP": 16, "num_warps": 8, "num_stages": 4}


def reference(a: Tensor, b: Tensor, compute: torch.dtype = torch.float64) -> Tensor:
    """a (M, K), b (N, K) e4m3 -> (M, N) in ``compute``."""
    return a.to(compute) @ b.to(compute).T


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    a_desc, b_desc, out_ptr, M, N, K, out_row, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr
):
    """One program: one tile. The sum is the product's own operand and never leaves the tensor cores' registers."""
    row, column = place(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP)
    m, n = row * BLOCK_M, column * BLOCK_N
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, tl.cdiv(K, 128)):
        total = tl.dot(a_desc.load([m, k * 128]), b_desc.load([n, k * 128]).T, total)
    rows, columns = m + tl.arange(0, BLOCK_M), n + tl.arange(0, BLOCK_N)
    at = out_ptr + rows.to(tl.int64)[:, None] * out_row + columns[None, :]
    tl.store(at, total, mask=(rows < M)[:, None] & (columns < N)[None, :])


def launches(a: Tensor, b: Tensor, out: Tensor, *, config: Config = CONFIG) -> tuple[Launch, ...]:
    """As the launcher's arguments and result."""
    (M, K), N = a.shape, b.shape[0]
    blocks, options = split(config)
    args = {
        "a_desc": descriptor(a, (blocks["BLOCK_M"], TILE)), "b_desc": descriptor(b, (blocks["BLOCK_N"], TILE)),
        "out_ptr": out, "M": M, "N": N, "K": K, "out_row": out.stride(0), **blocks,
    }  # fmt: skip
    return (Launch(kernel, (cdiv(M, blocks["BLOCK_M"]) * cdiv(N, blocks["BLOCK_N"]),), args, options),)


def fp8_gemm_unpromoted(a: Tensor, b: Tensor, *, config: Config = CONFIG) -> Tensor:
    """a (M, K), b (N, K) e4m3 with rows at multiples of 16 bytes -> (M, N) float32. Raises ValueError."""
    checks.tensor(OP, "a", a, FP8, (None, None))
    M, K = a.shape
    checks.tensor(OP, "b", b, FP8, (None, K))
    checks.device(OP, checks.HOPPER, a, b)
    out = torch.empty(M, len(b), dtype=torch.float32, device=a.device)
    if a.is_meta or not out.numel():
        return out
    if not K:
        return out.zero_()
    run(launches(a, b, out, config=config))
    return out
