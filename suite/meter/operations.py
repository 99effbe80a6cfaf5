"""What a counter knows of operations: which are matrix products, which are free, and how the rest is refused.

    PRODUCTS     aten operations counted from their operands' shapes
    OPERATIONS   functions counted from their arguments: the project's own, and torch's fused attention
    is_free      aten operations known to hold no matrix product

A multiply-add is 2 operations. Free ones are those a FLOP count leaves out by definition: they grow with the
number of elements, not with a product of three sizes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# aten name -> positions of the left and the right operand.
PRODUCTS: dict[str, tuple[int, int]] = {
    "mm": (0, 1), "addmm": (1, 2), "addmm_": (1, 2), "_addmm_activation": (1, 2),
    "bmm": (0, 1), "baddbmm": (1, 2), "baddbmm_": (1, 2), "addbmm": (1, 2), "addbmm_": (1, 2),
    "mv": (0, 1), "addmv": (1, 2), "addmv_": (1, 2), "dot": (0, 1), "vdot": (0, 1),
    "_int_mm": (0, 1), "_scaled_mm": (0, 1), "_scaled_mm_v2": (0, 1),
    "_grouped_mm": (0, 1), "_scaled_grouped_mm": (0, 1), "_scaled_grouped_mm_v2": (0, 1),
}  # fmt: skip

# Besides these, what torch itself marks as pointwise or as a view is free.
FREE: dict[str, str] = {
    "shape and storage": "_unsafe_view resize_ set_ unsafe_split unsafe_split_with_sizes _local_scalar_dense "
    "is_same_size expand_copy permute_copy view_copy as_strided_ unbind_copy detach_",
    "making tensors": "empty empty_like empty_strided new_empty new_empty_strided new_zeros new_ones new_full zeros "
    "zeros_like ones ones_like full full_like eye arange linspace scalar_tensor tril triu tril_ triu_ "
    "lift_fresh_copy lift _efficientzerotensor complex polar",
    "random numbers": "normal_ uniform_ normal uniform bernoulli bernoulli_ rand rand_like randn randn_like randint "
    "multinomial exponential_ native_dropout random_",
    "copies": "copy_ _to_copy cat stack repeat repeat_interleave constant_pad_nd flip roll fill fill_ zero_ zero "
    "slice_backward select_backward slice_scatter select_scatter index_copy index_copy_ diagonal_backward "
    "_foreach_copy_",
    "lookups": "embedding embedding_dense_backward index index_put index_put_ _index_put_impl_ _unsafe_index_put "
    "index_select index_add index_add_ index_fill index_fill_ gather scatter scatter_ scatter_add scatter_add_ "
    "scatter_reduce masked_select masked_scatter masked_fill masked_fill_ where nonzero bucketize searchsorted "
    "unfold_backward",
    "selection": "topk sort kthvalue max min amax amin argmax argmin aminmax unique_consecutive _unique2 histc "
    "bincount cumsum cumsum_ cummax any all isin",
    "reductions": "sum mean var var_mean std prod norm linalg_vector_norm logsumexp count_nonzero nansum _foreach_norm",
    "normalisation, softmax and losses": "_softmax _softmax_backward_data _log_softmax _log_softmax_backward_data "
    "_safe_softmax _fused_rms_norm _fused_rms_norm_backward native_layer_norm native_layer_norm_backward "
    "nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward mse_loss mse_loss_backward",
    "elementwise, where torch does not mark it": "floor_divide floor_divide_ _foreach_add_ _foreach_mul_ "
    "_foreach_addcdiv_ _foreach_addcmul_ _foreach_lerp_ _foreach_sqrt",
}
FREE_NAMES = frozenset(name for names in FREE.values() for name in names.split())


class Products(NamedTuple):
    """What one call multiplies: FLOPs of what it needs, and of the whole matrix where attention skips a part."""

    needed: int
    whole: int


def product(name: str, args: tuple[Any, ...]) -> int:
    """FLOPs of one of PRODUCTS: every output element is a sum over the shared dimension."""
    left: Tensor
    right: Tensor
    left, right = (args[i] for i in PRODUCTS[name])
    if "grouped" not in name:
        return 2 * left.numel() * (right.shape[-1] if right.dim() > 1 else 1)
    # Rows of one side belong to groups, and each meets one group of the other side: never all of them.
    if left.dim() == right.dim() == 2:  # (M, K) (K, N), groups along K
        return 2 * left.numel() * right.shape[1]
    if left.dim() == 2:  # (T, K) (E, K, N), groups along T
        return 2 * left.numel() * right.shape[2]
    if right.dim() == 2:  # (E, M, K) (K, T), groups along T
        return 2 * left.shape[1] * right.numel()
    return 2 * left.numel() * right.shape[2]  # (E, M, K) (E, K, N)


def is_free(func: torch._ops.OpOverload) -> bool:
    """Whether an aten or prims operation is known to hold no matrix product. Others' operations never are."""
    if func.namespace not in ("aten", "prims", "prim"):
        return False
    return func.is_view or torch.Tag.pointwise in func.tags or name_of(func) in FREE_NAMES


def name_of(func: torch._ops.OpOverload) -> str:
    """The operation's name without namespace and overload: aten::bmm.dtype -> bmm."""
    return func._schema.name.split("::")[1]


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool = True, window: int | None = None,
              lengths: Tensor | None = None) -> Products:  # fmt: skip
    """kernels/attention.py: q (B, S, H, d), k (B, L, J, d), v (B, L, J, v)."""
    (B, S, H, d), L = q.shape, k.shape[1]
    seen = sum(pairs(S, end, causal=causal, window=window) for end in ends(lengths, B, L))
    width = 2 * H * (d + v.shape[-1])
    return Products(width * seen, width * B * S * min(L, window or L))


def mla_decode(q: Tensor, latents: Tensor, *, value_dim: int, scale: float, lengths: Tensor | None = None) -> Products:
    """kernels/mla_decode.py: q (B, S, H, C+R), latents (B, L, C+R), of which value_dim = C are values."""
    (B, S, H, W), L = q.shape, latents.shape[1]
    width = 2 * H * (W + value_dim)
    return Products(width * sum(pairs(S, end, causal=True) for end in ends(lengths, B, L)), width * B * S * L)


def grouped_gemm(x: Tensor, w: Tensor, offsets: Tensor) -> Products:
    """kernels/grouped_gemm.py: x (T, K), w (E, N, K), each row meets one expert's matrix."""
    rows = x.shape[0] if offsets.is_meta else int(offsets[-1])
    flops = 2 * rows * w.shape[1] * w.shape[2]
    return Products(flops, flops)


def fp8_linear(x: Tensor, w: Tensor, b: Tensor | None = None, **_: Any) -> Products:
    """kernels/fp8_linear.py: x (.., K), w (N, K)."""
    flops = 2 * x.numel() * w.shape[0]
    return Products(flops, flops)


def linear_of_codes(codes: Tensor, scales: Tensor, w: Tensor, b: Tensor | None = None, **_: Any) -> Products:
    """kernels/fp8_linear.py: codes (T, K), w (N, K)."""
    return fp8_linear(codes, w)


def fp8_ffn(x: Tensor, w_gate_up: Tensor, w_down: Tensor, *_: Any, **__: Any) -> Products:
    """kernels/fp8_ffn.py: x (.., D), w_gate_up (2F, D), w_down (D, F)."""
    flops = 2 * x.shape[:-1].numel() * (w_gate_up.numel() + w_down.numel())
    return Products(flops, flops)


def fp8_experts(
    x: Tensor, gates: Tensor, index: Tensor, w_gate_up: Tensor, w_down: Tensor, **_: Any
) -> Products:  # fmt: skip
    """kernels/fp8_experts.py: index (T, K), w_gate_up (E, 2F, D), w_down (E, D, F); each choice meets both matrices."""
    flops = 2 * index.numel() * (w_gate_up[0].numel() + w_down[0].numel())
    return Products(flops, flops)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Products:  # fmt: skip
    """torch's scaled_dot_product_attention: query (.., H, S, d), key (.., J, L, d), value (.., J, L, v)."""
    rows, S, L = math.prod(query.shape[:-2]), query.shape[-2], key.shape[-2]  # rows: batch and heads
    if attn_mask is not None:
        if attn_mask.is_meta:
            raise ValueError("a mask on the meta device has no values to count")
        kept = attn_mask if attn_mask.dtype == torch.bool else attn_mask > torch.finfo(attn_mask.dtype).min
        seen = int(kept.expand(*query.shape[:-1], L).sum())
    else:
        seen = rows * (sum(min(i + 1, L) for i in range(S)) if is_causal else S * L)
    width = 2 * (query.shape[-1] + value.shape[-1])
    return Products(width * seen, width * rows * S * L)


def ends(lengths: Tensor | None, batch: int, L: int) -> list[int]:
    """Where each row's keys end."""
    if lengths is None:
        return [L] * batch
    if lengths.is_meta:
        raise ValueError("lengths on the meta device have no values to count")
    return [int(end) for end in lengths.tolist()]


@cache
def pairs(S: int, end: int, *, causal: bool, window: int | None = None) -> int:
    """Query-key pairs of the last S of ``end`` positions, one by one: the plain definition."""
    total = 0
    for position in range(end - S, end):
        last = position if causal else end - 1
        first = 0 if window is None else max(0, position - window + 1)
        total += max(0, last - first + 1)
    return total


def empty_attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    return q.new_empty(*q.shape[:-1], v.shape[-1])


def empty_mla(q: Tensor, latents: Tensor, *, value_dim: int, **_: Any) -> Tensor:
    return q.new_empty(*q.shape[:-1], value_dim)


def empty_grouped(x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[1])


def empty_linear(x: Tensor, w: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], w.shape[0])


def empty_of_codes(codes: Tensor, scales: Tensor, w: Tensor, *_: Any, out_dtype: torch.dtype, **__: Any) -> Tensor:
    return codes.new_empty(len(codes), len(w), dtype=out_dtype)


def empty_like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x)


class Operation(NamedTuple):
    """A function known by its arguments: its part of the model, its products, its result's shape without the work."""

    part: str  # "" where the weight among its arguments says it
    products: Callable[..., Products]
    empty: Callable[..., Tensor]
    operands: int  # of the first arguments, those that are multiplied

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with those given by name put in their places."""
        bound = inspect.signature(self.products).bind(*args, **kwargs)
        return bound.args, bound.kwargs


OPERATIONS: dict[str, Operation] = {
    "v3bench.kernels.attention.attention": Operation("attention", attention, empty_attention, 3),
    "v3bench.kernels.mla_decode.mla_decode": Operation("attention", mla_decode, empty_mla, 2),
    "v3bench.kernels.grouped_gemm.grouped_gemm": Operation("", grouped_gemm, empty_grouped, 2),
    "v3bench.kernels.triton_ops.attention": Operation("attention", attention, empty_attention, 3),
    "v3bench.kernels.flash_attention.attention": Operation("attention", attention, empty_attention, 3),
    "v3bench.kernels.paged_mla.mla_decode": Operation("attention", mla_decode, empty_mla, 2),
    "v3bench.kernels.fp8_linear.fp8_linear": Operation("", fp8_linear, empty_linear, 2),
    "v3bench.kernels.fp8_linear.linear_of_codes": Operation("", linear_of_codes, empty_of_codes, 3),
    "v3bench.kernels.fp8_ffn.fp8_ffn": Operation("", fp8_ffn, empty_like, 3),
    "v3bench.kernels.fp8_experts.fp8_experts": Operation("", fp8_experts, empty_like, 5),
    "torch.scaled_dot_product_attention": Operation("attention", fused_attention, empty_attention, 3),
}


def operation_name(func: Callable[..., Any]) -> str:
    """The key in OPERATIONS a function would have."""
    if func is F.scaled_dot_product_attention:
        return "torch.scaled_dot_product_attention"
    func = inspect.unwrap(func)
    return f"{getattr(func, '__module__', '')}.{getattr(func, '__qualname__', '')}"
