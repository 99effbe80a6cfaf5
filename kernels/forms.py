"""The forms in which models call the launchers of attention and of FP8 products, beyond a launch table's one.

    FORMS       by launcher: how wide, of which dtype, with lengths or without; what CALLS' functions take
    launches    what a launcher starts on a Hopper GPU for a form, with the configuration that it chooses itself

A table's rows are one form at many shapes. What a kernel is compiled to depends on the form: contiguous or in pages,
lengths or none, a head's width, the dtype; a size counts by being 1 or a multiple of 16. ``compile_check`` holds all of
them to what it holds a table's rows to.

B rows  S queries  L keys  H heads  J key-value heads  d query and key width  v value width  C latent  R decoupled key
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from v3bench.kernels import (
    catalog,
    flash_attention,
    fp8_gemm,
    grouped_fp8_gemm,
    masked_fp8_gemm,
    paged_gqa,
    paged_mla,
    standin,
    triton_ops,
)
from v3bench.kernels.attention_tiles import Mask
from v3bench.kernels.launch import Launch, cdiv
from v3bench.kernels.page_table import PAGE
from v3bench.kernels.paged_cache import FP8_TOKEN
from v3bench.kernels.quantize import FP8, TILE, empty_scales

Form = Mapping[str, Any]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def each(*axes: Sequence[Form]) -> list[Form]:
    """All combinations of one part of each axis."""
    return [{name: value for part in parts for name, value in part.items()} for parts in product(*axes)]


def of(name: str, *values: Any) -> list[Form]:
    """An axis: a name with its values."""
    return [{name: value} for value in values]


BF16, FLOAT32 = of("dtype", "bfloat16"), of("dtype", "float32")
TYPES, LENGTHS = of("dtype", *DTYPES), of("lengths", False, True)
# Heads of MLA in DeepSeek's small models and its large ones, expanded and absorbed; of the dense baselines.
MLA: list[Form] = [{"d": 24, "v": 16}, {"d": 48, "v": 32}, {"d": 192, "v": 128}]
DENSE: list[Form] = [{"d": d, "v": d} for d in (64, 128, 192, 256)]
SMALL: list[Form] = [{"d": d, "v": d} for d in (16, 32)]
ABSORBED: list[Form] = [
    {"C": 32, "R": 8, "H": 4}, {"C": 64, "R": 16, "H": 8}, {"C": 512, "R": 64, "H": 16}, {"C": 512, "R": 64, "H": 128}
]  # fmt: skip
PROXY: list[Form] = [{"C": 128, "R": 64, "H": 2}]  # of a small model that is trained and decodes on a GPU
OWN, SHARED = [{"H": 16, "J": 16}], [{"H": 32, "J": 8}]
HEADS = [*each(MLA, OWN), *each([*SMALL, *DENSE], SHARED)]
# A prompt; more tokens after others, in rows of several lengths; drafts to be verified; one token.
PROMPT: list[Form] = [{"B": 2, "S": 4096, "L": 4096}]
LATER: list[Form] = [{"B": 2, "S": 512, "L": 4609, "lengths": True}]
DRAFTS: list[Form] = [{"B": 8, "S": S, "L": 4099} for S in (8, 32, 64)]
NEXT: list[Form] = [{"B": 8, "S": 1, "L": 4097}]
# 16, 32 and 64 query rows share a key-value head.
GROUPS: list[Form] = [{"H": 32, "J": 8}, {"H": 32, "J": 1}, {"H": 64, "J": 1}]
# Of those that share latents.
STEPS: list[Form] = [{"B": 1, "S": 1, "L": 4097}, {"B": 8, "S": 1, "L": 4096}, {"B": 8, "S": 2, "L": 4097}]

FORMS: Mapping[str, Sequence[Form]] = {
    "attention": [
        *each(HEADS, TYPES, [*PROMPT, *LATER]),
        *each(HEADS, BF16, DRAFTS, LENGTHS),
        *each(DENSE, SHARED, [*BF16, *FLOAT32], [*PROMPT, *LATER], of("window", 512)),
        *each([*SMALL, *DENSE], GROUPS, BF16, NEXT, LENGTHS),
        *each(DENSE, GROUPS, TYPES[1:], NEXT, of("lengths", True)),
        *each(DENSE, SHARED, BF16, NEXT, LENGTHS, of("window", 512)),
    ],
    "attention_backward": [*each(HEADS, TYPES, PROMPT), *each(HEADS, [*BF16, *FLOAT32], LATER)],
    "mla_decode": [
        *each(ABSORBED, BF16, STEPS, LENGTHS),
        *each(ABSORBED, TYPES[1:], NEXT, LENGTHS),
        *each(PROXY, BF16, STEPS, LENGTHS),
    ],
    "paged_mla": [*each(ABSORBED, BF16, STEPS), *each(ABSORBED, TYPES[1:], NEXT)],
    "paged_mla_fp8": each(ABSORBED[2:], BF16, STEPS),
    "paged_gqa": each(DENSE, GROUPS, BF16, NEXT),
    "paged_gqa_fp8": each(DENSE, GROUPS, TYPES[:2], NEXT),
    **{
        op: each(catalog.module(op).TABLE_SHAPES[op], FLOAT32)
        for op in ("fp8_gemm", "grouped_fp8_gemm", "masked_fp8_gemm")
    },
}


def launches(launcher: str, form: Form) -> tuple[Launch, ...]:
    """In order; their tensors are on the meta device. For a process of its own, see standin.py."""
    started: list[Launch] = []
    with standin.present(), patch.object(Launch, "__call__", lambda self: started.append(self)):
        CALLS[launcher](**form)
    return tuple(started)


def empty(*size: int, dtype: str | torch.dtype = "float32") -> Tensor:
    """On the GPU that is not there."""
    return torch.empty(size, dtype=DTYPES[dtype] if isinstance(dtype, str) else dtype, device=standin.GPU)


def lengths_of(B: int, given: bool, dtype: torch.dtype = torch.int64) -> Tensor | None:
    """One of each row, as the model's cache has them."""
    return empty(B, dtype=dtype) if given else None


def attention(
    B: int, S: int, L: int, H: int, J: int, d: int, v: int, dtype: str, lengths: bool = False, window: int | None = None
) -> None:
    """Of the models' set of operations: few queries are another launcher's."""
    q, k, values = (empty(*size, dtype=dtype) for size in ((B, S, H, d), (B, L, J, d), (B, L, J, v)))
    triton_ops.attention(q, k, values, scale=d**-0.5, lengths=lengths_of(B, lengths), window=window)


def attention_backward(
    B: int, S: int, L: int, H: int, J: int, d: int, v: int, dtype: str, lengths: bool = False
) -> None:
    """The gradients of flash_attention, which the models' set is differentiated by."""
    q, k, values = (empty(*size, dtype=dtype) for size in ((B, S, H, d), (B, L, J, d), (B, L, J, v)))
    out, d_out, lse = empty(B, S, H, v, dtype=dtype), empty(B, S, H, v, dtype=dtype), empty(B, H, S)
    mask = Mask(lengths=lengths_of(B, lengths))
    flash_attention.gradients(q, k, values, out, lse, d_out, scale=d**-0.5, mask=mask)


def mla_decode(B: int, S: int, H: int, L: int, C: int, R: int, dtype: str, lengths: bool) -> None:
    """Over the first L of a cache's tokens, which are twice as many."""
    q, latents = empty(B, S, H, C + R, dtype=dtype), empty(B, 2 * L, C + R, dtype=dtype)[:, :L]
    triton_ops.TRITON.mla_decode(q, latents, value_dim=C, scale=0.1, lengths=lengths_of(B, lengths))


def paged_mla_(B: int, S: int, H: int, L: int, C: int, R: int, dtype: str, fp8: bool = False) -> None:
    """Over pages of latents or of FP8 tokens."""
    columns = cdiv(L, PAGE)
    pages = empty(B * columns, PAGE, *((FP8_TOKEN,) if fp8 else (C + R,)), dtype=torch.uint8 if fp8 else dtype)
    table, lengths = empty(B, columns, dtype=torch.int32), empty(B, dtype=torch.int32)
    paged_mla.paged_mla(empty(B, S, H, C + R, dtype=dtype), pages, table, lengths, scale=0.1, value_dim=C)


def paged_gqa_(B: int, S: int, L: int, H: int, J: int, d: int, v: int, dtype: str, fp8: bool = False) -> None:
    """Over pages of keys and of values, or of their codes."""
    columns = cdiv(L, PAGE)
    k, values = (empty(B * columns, PAGE, J, width, dtype=FP8 if fp8 else dtype) for width in (d, v))
    q, table = empty(B, S, H, d, dtype=dtype), empty(B, columns, dtype=torch.int32)
    lengths = empty(B, dtype=torch.int32)
    if fp8:
        of_k, of_v = (empty(B * columns, J, PAGE).transpose(1, 2) for _ in range(2))
        paged_gqa.paged_gqa_fp8(q, k, values, of_k, of_v, table, lengths, scale=0.1)
    else:
        paged_gqa.paged_gqa(q, k, values, table, lengths, scale=0.1)


def fp8_gemm_(M: int, N: int, K: int, dtype: str) -> None:
    """For what FP8 layers make of activations in ``dtype``."""
    a, b, W = empty(M, K, dtype=FP8), empty(N, K, dtype=FP8), cdiv(K, TILE)
    fp8_gemm.fp8_gemm(a, empty_scales(M, W, standin.GPU), b, empty(cdiv(N, TILE), W), DTYPES[dtype])


def grouped(E: int, R: int, N: int, K: int, dtype: str) -> None:
    """Likewise, R rows of every expert."""
    x, w, W = empty(E * R, K, dtype=FP8), empty(E, N, K, dtype=FP8), cdiv(K, TILE)
    scales, offsets = (empty_scales(E * R, W, standin.GPU), empty(E, cdiv(N, TILE), W)), empty(E, dtype=torch.int32)
    grouped_fp8_gemm.grouped_fp8_gemm(x, scales[0], w, scales[1], offsets, DTYPES[dtype])


def masked(E: int, R: int, N: int, K: int, dtype: str) -> None:
    """Likewise, at most R rows."""
    x, w, W = empty(E, R, K, dtype=FP8), empty(E, N, K, dtype=FP8), cdiv(K, TILE)
    scales = masked_fp8_gemm.stacked(empty_scales(E * R, W, standin.GPU), E), empty(E, cdiv(N, TILE), W)
    rows = empty(E, dtype=torch.int32)
    masked_fp8_gemm.masked_fp8_gemm(x, scales[0], w, scales[1], rows, out_dtype=DTYPES[dtype])


CALLS: Mapping[str, Callable[..., None]] = {
    "attention": attention,
    "attention_backward": attention_backward,
    "mla_decode": mla_decode,
    "paged_mla": paged_mla_,
    "paged_mla_fp8": partial(paged_mla_, fp8=True),
    "paged_gqa": paged_gqa_,
    "paged_gqa_fp8": partial(paged_gqa_, fp8=True),
    "fp8_gemm": fp8_gemm_,
    "grouped_fp8_gemm": grouped,
    "masked_fp8_gemm": masked,
}
