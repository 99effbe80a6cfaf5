"""The logistic function inside kernels, in four instructions."""

from __future__ import annotations

import triton
import triton.language as tl
from v3bench.kernels.casts import INTERPRETED

# exp2(-x log2 e), plus one, reciprocal. Triton's own exp and quotient also serve subnormal results and numbers beyond
# 2^126, which costs ten instructions more; here these are 0.
ASM = tl.constexpr(
    "{ .reg .f32 t; mul.f32 t, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 t, t; add.f32 t, t, 0f3F800000; "
    "rcp.approx.ftz.f32 $0, t; }"
)


@triton.jit
def sigmoid(x):  # type: ignore[no-untyped-def]
    """float32 -> 1 / (1 + exp(-x)), within a few units of rounding; NaN to NaN."""
    if INTERPRETED:
        return 1.0 / (1.0 + tl.exp(-x))
    else:
        return tl.inline_asm_elementwise(ASM, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
