"""Conversions inside kernels that are right on a GPU and under Triton's interpreter alike.

The interpreter truncates float32 to bfloat16, rounds to e4m3 wrongly (halves up, the carry lost, 464 and NaN wrapped),
reads the NaN codes of e4m3 as 480, multiplies bfloat16 matrices as integers, and drops NaN in a maximum. A GPU's own
instructions do all of it right, so the detours are compiled in only where ``INTERPRETED`` is true. They give the
same bits as the GPU, but for the sign of a zero.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
INFINITE = tl.constexpr(0x7F800000)  # bits of float32 infinity; NaNs lie above


@triton.jit
def to_e4m3(x):  # type: ignore[no-untyped-def]
    """float32 -> e4m3, to nearest even, beyond 448 saturated, NaN to NaN."""
    if INTERPRETED:
        bits = x.to(tl.int32, bitcast=True)
        normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -1048576).to(tl.float32, bitcast=True)
        near = tl.where(tl.abs(x) < 0.015625, (x + 24576.0) - 24576.0, normal)
        near = tl.where(x >= 448.0, 448.0, tl.where(x <= -448.0, -448.0, near))
        codes = near.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
        return tl.where(x != x, 0x7F, codes).to(tl.uint8).to(tl.float8e4nv, bitcast=True)
    else:
        return x.to(tl.float8e4nv)


@triton.jit
def from_e4m3(codes):  # type: ignore[no-untyped-def]
    """e4m3 -> float32, exact; NaN stays NaN."""
    if INTERPRETED:
        bits = codes.to(tl.uint8, bitcast=True)
        return tl.where((bits & 0x7F) == 0x7F, float("nan"), codes.to(tl.float32))
    else:
        return codes.to(tl.float32)


@triton.jit
def narrow(x, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """float32 -> ``dtype`` (bfloat16, float16 or float32), to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        even = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
        return tl.where(x != x, x, even).to(tl.bfloat16)
    else:
        return x.to(dtype)


@triton.jit
def operand(x):  # type: ignore[no-untyped-def]
    """A matrix as ``tl.dot`` takes it: as it is on a GPU; bfloat16 as float32 in the interpreter."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def magnitude(x, axis: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest |x| along ``axis``, float32; NaN where any x is NaN or infinite.

    As integers the bits of |x| are ordered like |x|, and NaN stands above all: an integer maximum cannot lose it.
    """
    bits = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=axis)
    return tl.where(bits >= INFINITE, float("nan"), bits.to(tl.float32, bitcast=True))
