"""Softmax attention with gradients on the kernels of mla_prefill.py: MHA, GQA, MQA, MLA in its expanded form.

    attention    as attention.py's: heads of any width up to 256, in bfloat16, float16 or float32

float32 is multiplied exactly, without tensor cores: for tests and small models. Keys of 192 with values of 128 are
launched by their tables, forward and backward; what is launched for other widths stands here.

B batch  S queries  L keys (S <= L)  H heads  J key-value heads (J divides H)  d query and key width  v value width
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from v3bench.kernels import checks, mla_prefill, mla_prefill_backward, tables
from v3bench.kernels.attention_tiles import Mask
from v3bench.kernels.launch import Config
from v3bench.kernels.mla_prefill import KEY, VALUE
from v3bench.kernels.operation import operation

T = TypeVar("T")
FEW = 64  # queries that one block holds: padded no further than to their number

# By the wider of key and value; none spills on sm_90. Tiles of 64 keys, because stages hide the copies' way from L2:
# they start stages - 1 tiles ahead.
FORWARD: dict[int, Config] = {
    64: {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3},  # 110 registers, 48 KiB: two CTAs an SM
    128: {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 4},  # 128 KiB: one CTA of two warp groups
    256: {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3},  # 255 registers, 192 KiB
}
# Rows of several lengths mask their ends in a loop of their own, whose registers a wide head does not have.
FORWARD_LENGTHS: dict[int, Config] = {
    **FORWARD,
    256: {"BLOCK_M": 128, "BLOCK_N": 32, "num_warps": 8, "num_stages": 3},  # 254 registers, 96 KiB
}
# By width as well, then by the number of queries; 32 of wide heads are two blocks, as one would spill.
FORWARD_FEW: dict[int, dict[int, Config]] = {
    128: {
        16: {"BLOCK_M": 16, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3},
        32: {"BLOCK_M": 32, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3},
        64: {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3},
    },
    256: {
        32: {"BLOCK_M": 16, "BLOCK_N": 32, "num_warps": 4, "num_stages": 3},  # 212 registers
        64: {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2},  # 245 registers
    },
}
BACKWARD: dict[int, Config] = {
    # 122 and 176 registers: two or three CTAs an SM, one's products beside the other's exponentials
    64: {
        "KEYS_M": 64, "KEYS_N": 64, "KEYS_warps": 4, "KEYS_stages": 3,
        "QUERIES_M": 64, "QUERIES_N": 64, "QUERIES_warps": 4, "QUERIES_stages": 3,
    },
    # dk and dv take 128 registers a thread: 64 queries at a time fit (249), with 97 KiB twice on an SM
    128: {
        "KEYS_M": 64, "KEYS_N": 64, "KEYS_warps": 4, "KEYS_stages": 2,
        "QUERIES_M": 64, "QUERIES_N": 64, "QUERIES_warps": 4, "QUERIES_stages": 2,
    },
    # dk and dv of 512 columns need 8 warps, and 32 queries at a time
    256: {
        "KEYS_M": 32, "KEYS_N": 64, "KEYS_warps": 8, "KEYS_stages": 2,
        "QUERIES_M": 64, "QUERIES_N": 32, "QUERIES_warps": 8, "QUERIES_stages": 2,
    },
}  # fmt: skip
BACKWARD_LENGTHS: dict[int, Config] = {**BACKWARD, 256: {**BACKWARD[256], "QUERIES_N": 16}}
# Exact products read their operands from registers: small tiles. At most 202 and 107 registers, of heads of 256.
FORWARD_EXACT: Config = {"BLOCK_M": 32, "BLOCK_N": 16, "num_warps": 8, "num_stages": 1}
BACKWARD_EXACT: dict[int, Config] = {
    # Of more warps narrow heads need so few registers that ptxas spills 8 bytes to fit one more CTA.
    64: {
        "KEYS_M": 16, "KEYS_N": 16, "KEYS_warps": 2, "KEYS_stages": 1,
        "QUERIES_M": 16, "QUERIES_N": 16, "QUERIES_warps": 2, "QUERIES_stages": 1,
    },
    256: {
        "KEYS_M": 16, "KEYS_N": 16, "KEYS_warps": 8, "KEYS_stages": 1,
        "QUERIES_M": 16, "QUERIES_N": 16, "QUERIES_warps": 8, "QUERIES_stages": 1,
    },
}  # fmt: skip


@operation
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """q (B, S, H, d), k (B, L, J, d), v (B, L, J, v) -> (B, S, H, v), as attention.reference. Raises ValueError.

    Where a query sees no key it is 0.
    """
    checks.tensors("attention", q=q, k=k, v=v)
    q, k, v = (x if x.ndim != 4 or x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    mask = Mask(causal, None if window is not None and window >= k.shape[1] else window, lengths)
    mla_prefill.check("attention", q, k, v, scale, mask)
    out: Tensor = Attention.apply(q, k, v, scale, mask)
    return out


class Attention(torch.autograd.Function):
    """Checked arguments -> out; keeps out and lse for the gradients of q, k and v."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Mask) -> Tensor:
        out, lse = mla_prefill.forward(q, k, v, scale=scale, mask=mask, config=forward_config(q, v, mask))
        ctx.save_for_backward(q, k, v, out, lse, mask.lengths)  # torch then sees whether one is changed meanwhile
        ctx.scale, ctx.mask = scale, replace(mask, lengths=None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, lengths = ctx.saved_tensors
        mask = replace(ctx.mask, lengths=lengths)
        return *gradients(q, k, v, out, lse, d_out, scale=ctx.scale, mask=mask), None, None


def gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, d_out: Tensor, *, scale: float, mask: Mask
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv of checked arguments."""
    config = backward_config(q, v, mask)
    return mla_prefill_backward.backward(q, k, v, out, lse, d_out, scale=scale, mask=mask, config=config)


def forward_config(q: Tensor, v: Tensor, mask: Mask) -> Config:
    """What the forward kernel is launched with."""
    (B, S, H, d), width = q.shape, v.shape[-1]
    if q.dtype == torch.float32:
        return FORWARD_EXACT
    if S <= FEW:
        return fitting(fitting(FORWARD_FEW, max(d, width)), S)
    if (d, width) == (KEY, VALUE):
        return tables.choose("mla_prefill", q.device, B=B, H=H, S=S)
    return fitting(FORWARD if mask.lengths is None else FORWARD_LENGTHS, max(d, width))


def backward_config(q: Tensor, v: Tensor, mask: Mask) -> Config:
    """What the backward kernels are launched with."""
    (B, S, H, d), width = q.shape, v.shape[-1]
    if q.dtype == torch.float32:
        return fitting(BACKWARD_EXACT, max(d, width))
    if (d, width) == (KEY, VALUE) and S > FEW:
        return tables.choose("mla_prefill_backward", q.device, B=B, H=H, S=S)
    return fitting(BACKWARD if mask.lengths is None else BACKWARD_LENGTHS, max(d, width))


def fitting(choices: dict[int, T], size: int) -> T:
    """The choice for the least size that holds this one."""
    return choices[min(most for most in choices if most >= size)]
