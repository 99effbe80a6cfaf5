"""Rotary position embedding in Triton: kernels/rotate.py's operation, forward and backward.

    kernel     Triton: some tokens and heads per program, each angle read once for all heads that share it
    launches   as a launch
    rotate     launcher, differentiable in x: the gradient is turned back by the same angles

``rotate.reference`` is the definition. x may have any strides, as it is cut out of a projection's result. Computed in
the precision of the turns, rounded once.

B, S, H outer dimensions of x (fewer: ones in front)  R width  R/2 pairs
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks
from v3bench.kernels.casts import narrow
from v3bench.kernels.launch import Config, Launch, cdiv, run, split

NEEDS = checks.AMPERE
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
ELEMENTS, HEADS, WARPS = 2048, 16, 4  # of one program, at most: 16 elements a thread
WIDEST = 1024


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    x_ptr, turns_ptr, out_ptr, tokens, S, H, x_batch, x_token, x_head, x_column, turn_batch, turn_token, turn_head,
    turn_pair, R: tl.constexpr, PAIRS: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr,
    INTERLEAVED: tl.constexpr, SHARED: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """One program: TOKENS x HEADS rows. SHARED: all heads turn alike. BACK: by the opposite angles."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)[:, None, None]
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS)[None, :, None]).to(tl.int64)
    b, s = (token // S).to(tl.int64), (token % S).to(tl.int64)
    pair = tl.arange(0, PAIRS)[None, None, :]
    rows = (token < tokens) & (head < H)
    at = b * turn_batch + s * turn_token + pair * turn_pair
    there = (token < tokens) & (pair < R // 2)
    if not SHARED:
        at += head * turn_head
        there = rows & (pair < R // 2)
    cos = tl.load(turns_ptr + at, mask=there, other=0.0)
    sin = tl.load(turns_ptr + at + 1, mask=there, other=0.0)
    if BACK:
        sin = -sin
    x_ptr += b * x_batch + s * x_token + head * x_head
    out_ptr += (token.to(tl.int64) * H + head) * R
    if INTERLEAVED:
        column = tl.arange(0, 2 * PAIRS)[None, None, :]
        there = rows & (column < R)
        x = tl.load(x_ptr + column * x_column, mask=there, other=0.0).to(cos.dtype)
        first, second = tl.split(x.reshape(TOKENS, HEADS, PAIRS, 2))
        turned = tl.join(first * cos - second * sin, second * cos + first * sin)
        turned = turned.reshape(TOKENS, HEADS, 2 * PAIRS)
        tl.store(out_ptr + column, rounded(turned, out_ptr.dtype.element_ty), mask=there)
    else:
        there = rows & (pair < R // 2)
        first = tl.load(x_ptr + pair * x_column, mask=there, other=0.0).to(cos.dtype)
        second = tl.load(x_ptr + (R // 2 + pair) * x_column, mask=there, other=0.0).to(cos.dtype)
        tl.store(out_ptr + pair, rounded(first * cos - second * sin, out_ptr.dtype.element_ty), mask=there)
        tl.store(out_ptr + R // 2 + pair, rounded(second * cos + first * sin, out_ptr.dtype.element_ty), mask=there)


@triton.jit
def rounded(x, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """float32 or float64 -> ``dtype``, to nearest even."""
    if dtype == tl.float64:
        return x.to(tl.float64)
    else:
        return narrow(x.to(tl.float32), dtype)


def launches(
    x: Tensor, turns: Tensor, out: Tensor, *, interleaved: bool, back: bool, config: Config
) -> tuple[Launch, ...]:
    """x (B, S, H, R), turns real (B, S, H, R/2, 2) -> out (B, S, H, R), contiguous."""
    (B, S, H, R), (blocks, options) = x.shape, split(config)
    args = {
        "x_ptr": x, "turns_ptr": turns, "out_ptr": out, "tokens": B * S, "S": S, "H": H, "R": R,
        "x_batch": x.stride(0), "x_token": x.stride(1), "x_head": x.stride(2), "x_column": x.stride(3),
        "turn_batch": turns.stride(0), "turn_token": turns.stride(1), "turn_head": turns.stride(2),
        "turn_pair": turns.stride(3), "PAIRS": triton.next_power_of_2(max(R // 2, 1)), "INTERLEAVED": interleaved,
        "SHARED": turns.stride(2) == 0 or H == 1, "BACK": back, **blocks,
    }  # fmt: skip
    return (Launch(kernel, (cdiv(B * S, blocks["TOKENS"]), cdiv(H, blocks["HEADS"])), args, options),)


def blocks(H: int, R: int) -> Config:
    """Rows of one program: heads that share their angles first, then tokens."""
    width = triton.next_power_of_2(max(R, 2))
    heads = min(triton.next_power_of_2(max(H, 1)), HEADS, max(ELEMENTS // width, 1))
    return {"HEADS": heads, "TOKENS": max(ELEMENTS // (width * heads), 1), "num_warps": WARPS}


def turned(x: Tensor, turns: Tensor, interleaved: bool, back: bool, config: Config | None) -> Tensor:
    """The launcher proper, without a gradient."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.is_meta or x.numel() == 0:
        return out
    outer, R = x.shape[:-1], x.shape[-1]
    spread = torch.view_as_real(turns.resolve_conj().expand(*outer, R // 2))  # stride 0 where turns are shared
    ones = (1,) * (3 - len(outer))
    if len(outer) > 3:
        wide, spread = x.flatten(0, -4), spread.flatten(0, -5)
    else:
        wide, spread = x.view(*ones, *x.shape), spread.view(*ones, *spread.shape)
    config = config or blocks(wide.shape[2], R)
    run(launches(wide, spread, out, interleaved=interleaved, back=back, config=config))
    return out


class Rotation(torch.autograd.Function):
    """``turned`` with its gradient: the transpose of a rotation is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, turns: Tensor, interleaved: bool, back: bool, config: Config | None) -> Tensor:
        ctx.save_for_backward(turns)
        ctx.how = interleaved, back, config
        return turned(x, turns, interleaved, back, config)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        interleaved, back, config = ctx.how
        (turns,) = ctx.saved_tensors
        return Rotation.apply(grads[0], turns, interleaved, not back, config), None, None, None, None


def rotate(x: Tensor, turns: Tensor, *, interleaved: bool = True, config: Config | None = None) -> Tensor:
    """x (..., R) and turns (..., R/2) complex, broadcast to x -> (..., R), pairs where they were. Raises ValueError."""
    checks.tensors("rotate", x=x, turns=turns)
    if x.dtype not in FLOATS:
        raise ValueError(f"rotate: x is {checks.short(x.dtype)}, expected {' or '.join(map(checks.short, FLOATS))}")
    if turns.dtype not in (torch.complex64, torch.complex128):
        raise ValueError(f"rotate: turns is {checks.short(turns.dtype)}, expected complex64 or complex128")
    if x.ndim < 1 or x.shape[-1] % 2 or x.shape[-1] > WIDEST:
        raise ValueError(f"rotate: x has shape {tuple(x.shape)}, expected (..., R) with R even and at most {WIDEST}")
    want = (*x.shape[:-1], x.shape[-1] // 2)
    fits = turns.ndim <= x.ndim and all(
        n in (1, m) for n, m in zip(reversed(turns.shape), reversed(want), strict=False)
    )
    if not fits or turns.ndim < 1 or turns.shape[-1] != want[-1]:
        raise ValueError(f"rotate: turns has shape {tuple(turns.shape)}, expected one that broadcasts to {want}")
    if turns.requires_grad:
        raise ValueError("rotate: turns requires a gradient; only x has one")
    if x.numel() // max(x.shape[-1], 1) > checks.MOST:
        raise ValueError(f"rotate: x has shape {tuple(x.shape)}; more than 2^31 - 1 rows are not supported")
    checks.device("rotate", NEEDS, x, turns)
    result: Tensor = Rotation.apply(x, turns, interleaved, False, config)
    return result
