"""Every launcher of a kernel, with small inputs for it of given sizes and its definition: one table for all of them.

Numbers are what each operation's own tests are for. Here are those that hold for all: what is empty, what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from v3bench.kernels import (
    block_quant,
    dequantize,
    flash_attention,
    fp8_experts,
    fp8_ffn,
    fp8_gemm,
    fp8_gemm_unpromoted,
    fp8_gemm_wgrad,
    fp8_linear,
    fp8_norm_linear,
    gated_swiglu,
    gqa_decode,
    gqa_quantize,
    grouped_fp8_gemm,
    linear,
    masked_fp8_gemm,
    mla_decode,
    mla_prefill,
    mla_prefill_backward,
    norm,
    norm_fused,
    norm_quantize,
    order,
    paged_cache,
    paged_gqa,
    paged_mla,
    permute,
    quantize,
    rotary,
    rotate,
    route,
    route_fused,
    swiglu,
    swiglu_fused,
    swiglu_quantize,
    transpose,
)
from v3bench.kernels.launch import cdiv
from v3bench.suite.trials.registry import load

Arguments = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """``call(**inputs(**sizes))``; ``want`` of the same arguments is what it should give."""

    call: Callable[..., Any]
    want: Callable[..., Any]
    inputs: Callable[..., Arguments]
    sizes: Mapping[str, int]
    refuses: Mapping[str, str] = field(default_factory=dict)  # sizes that may not be 0, with what it says of them
    nothing: str = ""  # sizes without which the definition cannot be computed: a result is 0, a logarithm -inf


def wide(*size: int) -> Tensor:
    """bfloat16."""
    return torch.randn(size).bfloat16()


def coded(*size: int) -> Tensor:
    """e4m3."""
    return torch.randn(size).to(quantize.FP8)


def tiled(*size: int) -> Tensor:
    """Scales of tiles along the last side."""
    return torch.rand(*size[:-1], cdiv(size[-1], 128)) + 0.5


def blocked(*size: int) -> Tensor:
    """Scales of blocks of the last two sides."""
    return tiled(*size[:-2], cdiv(size[-2], 128), size[-1])


def int32(*values: int) -> Tensor:
    """As they stand."""
    return torch.tensor(values, dtype=torch.int32)


def ends(E: int, rows: int, align: int = 1) -> Tensor:
    """The first expert has all rows but the last ``align``, the last has those; others none."""
    return int32(*[rows if e == E - 1 else max(rows - align, 0) for e in range(E)])


def table(B: int, columns: int, pages: int) -> Arguments:
    """Rows of 70 tokens, or of none where there is no room for them."""
    lengths = int32(*[min(70, columns * 64) if pages else 0] * B)
    return {"block_table": torch.arange(B * columns, dtype=torch.int32).view(B, columns), "lengths": lengths}


def ordered(T: int, K: int, E: int, align: int = 1) -> order.Order:
    """Every token's choices, one after another."""
    return order.reference((torch.arange(T * K) % E).view(T, K), E, align)


def graded(call: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """The result and the gradients of its sum."""

    def both(**given: Any) -> tuple[Tensor, ...]:
        leaves = {name: given[name].clone().requires_grad_() for name in names}
        out = call(**given | leaves)
        to = torch.ones_like(out)
        return out.detach(), *torch.autograd.grad(out, list(leaves.values()), to, materialize_grads=True)

    return both


def written(call: Callable[..., None], *names: str) -> Callable[..., Any]:
    """What a launcher that writes in place leaves in copies of these arguments."""

    def result(**given: Any) -> tuple[Tensor, ...]:
        into = {name: part.clone() for name, part in given.items() if name in names and isinstance(part, Tensor)}
        call(**given | into)
        return tuple(into.values())

    return result


def stacked(w: Tensor) -> tuple[Tensor, Tensor]:
    """quantize.reference_blocks of every matrix."""
    if w.ndim == 2:
        return quantize.reference_blocks(w)
    made = [quantize.reference_blocks(matrix) for matrix in w]
    scales = torch.stack([scales for _, scales in made]) if made else blocked(*w.shape)
    return torch.stack([codes.float() for codes, _ in made]) if made else w, scales


def dense_experts(x: Tensor, gates: Tensor, index: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """fp8_experts without rounding, one choice at a time."""
    out = x * 0
    for k in range(index.shape[1]):
        h = torch.einsum("tfd,td->tf", w_gate_up[index[:, k]], x)
        out = out + gates[:, k, None].to(x.dtype) * torch.einsum("tdf,tf->td", w_down[index[:, k]], swiglu.reference(h))
    return out


def attending(B: int, S: int, L: int, H: int, J: int, d: int, v: int) -> Arguments:
    """Queries, keys and values."""
    return {"q": wide(B, S, H, d), "k": wide(B, L, J, d), "v": wide(B, L, J, v)}


def paged(B: int, S: int, H: int, J: int, d: int, v: int, columns: int, pages: int, fp8: bool = False) -> Arguments:
    """Queries, and pages of keys and values."""
    made = coded if fp8 else wide
    scales = {f"{name}_scales": torch.rand(pages, 64, J) + 0.5 for name in "kv"} if fp8 else {}
    given = {"q": wide(B, S, H, d), "k_pages": made(pages, 64, J, d), "v_pages": made(pages, 64, J, v)}
    return given | scales | table(B, columns, pages)


def latents(B: int, S: int, H: int, C: int, R: int, columns: int, pages: int) -> Arguments:
    """Queries and pages of latents, in FP8 where C is 512."""
    made = wide(pages, 64, C + R)
    if C == 512:
        made = paged_cache.quantized(torch.randn(pages * 64, C), torch.randn(pages * 64, R)).view(pages, 64, 656)
    return {"q": wide(B, S, H, C + R), "pages": made} | table(B, columns, pages) | {"value_dim": C}


def prefilled(B: int, S: int, H: int) -> Arguments:
    """Queries, keys, values, what attention makes of them, and its gradient."""
    given = {"q": wide(B, S, H, 192), "k": wide(B, S, H, 192), "v": wide(B, S, H, 128)}
    out, lse = mla_prefill.reference(**given, scale=0.1) if H else (wide(B, S, H, 128), torch.zeros(B, H, S))
    return given | {"out": out.contiguous(), "lse": lse, "d_out": wide(B, S, H, 128)}


def tensors(result: Any) -> list[Tensor]:
    """A launcher's results in float64, so that any two can be compared."""
    return [part.double() for part in (result if isinstance(result, tuple) else (result,))]


def of(call: Callable[..., Any], want: Callable[..., Any], inputs: Callable[..., Arguments], **rest: Any) -> Launcher:
    """A row of the table; what is no field of it is a size."""
    fields = {name: rest.pop(name) for name in ("refuses", "nothing") if name in rest}
    return Launcher(call=call, want=want, inputs=inputs, sizes=rest, **fields)


def both(
    name: str, call: Callable[..., Any], want: Callable[..., Any], leaves: str, *rest: Any, **more: Any
) -> dict[str, Launcher]:
    """A launcher, and the same with the gradients of these arguments."""
    return {
        name: of(call, want, *rest, **more),
        f"{name}, gradients": of(graded(call, *leaves.split()), graded(want, *leaves.split()), *rest, **more),
    }


def tuned(op: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """With blocks that the interpreter is quick with."""
    return partial(call, config=load(op).small_config)


PLAN = route.Plan(top_k=2, n_group=4, topk_group=2, scale=2.5)
NO_KEY = dict.fromkeys("LJv", "v has shape .* a query needs at least one key")
NO_WIDTH = {
    "J": "has 0 heads, expected a divisor of the 4 heads of q",
    "d": "k.* has heads of width 0",
    "v": "v.* has heads of width 0",
}
LAUNCHERS: dict[str, Launcher] = {
    "quantize_tiles": of(
        tuned("quantize_tiles", quantize.quantize_tiles), quantize.reference_tiles,
        lambda M, K: {"x": wide(M, K)}, M=3, K=144,
    ),
    "quantize_blocks": of(
        quantize.quantize_blocks, stacked, lambda E, N, K: {"w": wide(E, N, K)}, E=2, N=16, K=144
    ),
    "dequantize_tiles": of(
        tuned("dequantize_tiles", dequantize.dequantize_tiles), dequantize.reference_tiles,
        lambda M, K: {"codes": coded(M, K), "scales": tiled(M, K)}, M=3, K=144,
    ),
    "dequantize_blocks": of(
        dequantize.dequantize_blocks, partial(block_quant.reference, dtype=torch.bfloat16),
        lambda N, K: {"codes": coded(N, K), "scale_inv": blocked(N, K)}, N=16, K=144,
    ),
    "quantize_columns": of(
        transpose.quantize_columns, transpose.reference_columns, lambda T, D: {"x": wide(T, D)}, T=16, D=24
    ),
    "transpose_weights": of(
        transpose.transpose_weights, transpose.reference_weights,
        lambda E, N, K: {"codes": coded(E, N, K), "scales": blocked(E, N, K)}, E=2, N=16, K=32,
    ),
    "fp8_gemm": of(
        tuned("fp8_gemm", fp8_gemm.fp8_gemm), fp8_gemm.reference,
        lambda M, N, K: {"a": coded(M, K), "a_scales": tiled(M, K), "b": coded(N, K), "b_scales": blocked(N, K)},
        M=3, N=16, K=144,
    ),
    "fp8_gemm_unpromoted": of(
        fp8_gemm_unpromoted.fp8_gemm_unpromoted, fp8_gemm_unpromoted.reference,
        lambda M, N, K: {"a": coded(M, K), "b": coded(N, K)}, M=3, N=16, K=144,
    ),
    "fp8_gemm_wgrad": of(
        tuned("fp8_gemm_wgrad", fp8_gemm_wgrad.fp8_gemm_wgrad), fp8_gemm_wgrad.reference,
        lambda M, N, T: {"a": coded(M, T), "a_scales": tiled(M, T), "b": coded(N, T), "b_scales": tiled(N, T)},
        M=3, N=16, T=144,
    ),
    "fp8_gemm_wgrad, added": of(
        written(tuned("fp8_gemm_wgrad", fp8_gemm_wgrad.fp8_gemm_wgrad), "out"), fp8_gemm_wgrad.reference,
        lambda M, N, T: {
            "a": coded(M, T), "a_scales": tiled(M, T), "b": coded(N, T), "b_scales": tiled(N, T),
            "out": torch.randn(M, N),
        },
        M=3, N=16, T=144,
    ),
    "grouped_fp8_wgrad": of(
        tuned("grouped_fp8_wgrad", fp8_gemm_wgrad.grouped_fp8_wgrad), fp8_gemm_wgrad.reference_grouped,
        lambda E, M, N, T: {
            "a": coded(M, T), "a_scales": tiled(M, T), "b": coded(N, T), "b_scales": tiled(N, T),
            "ends": ends(E, T, 128),
        },
        E=3, M=3, N=16, T=256,
    ),
    "grouped_fp8_gemm": of(
        tuned("grouped_fp8_gemm", grouped_fp8_gemm.grouped_fp8_gemm), grouped_fp8_gemm.reference,
        lambda E, T, N, K: {
            "x": coded(T, K), "x_scales": tiled(T, K), "w": coded(E, N, K), "w_scales": blocked(E, N, K),
            "offsets": ends(E, T),
        },
        E=3, T=5, N=16, K=144, nothing="E",
    ),
    "masked_fp8_gemm": of(
        tuned("masked_fp8_gemm", masked_fp8_gemm.masked_fp8_gemm), masked_fp8_gemm.reference,
        lambda E, R, N, K: {
            "x": coded(E, R, K), "x_scales": tiled(E, R, K), "w": coded(E, N, K), "w_scales": blocked(E, N, K),
            "masked_m": int32(*[R] * E),
        },
        E=2, R=4, N=16, K=144, refuses={"K": "x has shape .* expected at least one column"},
    ),
    **both(
        "fp8_linear", fp8_linear.fp8_linear, lambda x, w, bias: linear.linear(x, w, bias), "x w bias",
        lambda B, T, N, K: {"x": wide(B, T, K), "w": wide(N, K), "bias": wide(N)}, B=2, T=3, N=16, K=144,
    ),
    **both(
        "fp8_experts", fp8_experts.fp8_experts, dense_experts, "x gates w_gate_up w_down",
        lambda T, K, E, D, F: {
            "x": wide(T, D), "gates": torch.rand(T, K), "index": torch.arange(T * K).view(T, K) % max(E, 1),
            "w_gate_up": wide(E, 2 * F, D), "w_down": wide(E, D, F),
        },
        T=3, K=2, E=4, D=32, F=16,
        refuses=dict.fromkeys("ED", "w_down has shape .* expected at least one expert and output"),
    ),
    "fp8_norm_linear": of(
        partial(fp8_norm_linear.fp8_norm_linear, eps=1e-6),
        lambda x, norm_weight, weights: tuple(norm.reference(x, norm_weight, 1e-6) @ w.T for w in weights),
        lambda B, T, N, K: {"x": wide(B, T, K), "norm_weight": wide(K), "weights": (wide(N, K), wide(N, K))},
        B=2, T=3, N=16, K=32, refuses={"K": "x"},
    ),
    "fp8_ffn": of(
        fp8_ffn.fp8_ffn, lambda x, w_gate_up, w_down: swiglu.reference(x @ w_gate_up.T) @ w_down.T,
        lambda B, T, D, F: {"x": wide(B, T, D), "w_gate_up": wide(2 * F, D), "w_down": wide(D, F)},
        B=2, T=3, D=32, F=16, refuses=dict.fromkeys("DF", "w_down has shape .* expected positive multiples of 16"),
    ),
    "masked_mlp": of(
        fp8_experts.masked_mlp, lambda x, **rest: torch.zeros(x.shape),
        lambda E, R, D, F: {
            "x": coded(E, R, D), "scales": tiled(E, R, D), "masked_m": int32(*[R] * E),
            "gate_up": (coded(E, 2 * F, D), blocked(E, 2 * F, D)), "down": (coded(E, D, F), blocked(E, D, F)),
        },
        E=2, R=4, D=32, F=16, refuses=dict.fromkeys("DF", "x has shape .* expected at least one column"),
    ),
    **both(
        "rms_norm", partial(norm_fused.rms_norm, eps=1e-6), partial(norm.reference, eps=1e-6), "x weight",
        lambda B, M, D: {"x": wide(B, M, D), "weight": wide(D)}, B=2, M=3, D=24,
        refuses={"D": "x has rows of 0 columns"},
    ),
    "rms_norm_quantize": of(
        partial(norm_quantize.rms_norm_quantize, eps=1e-6), partial(norm_quantize.reference, eps=1e-6),
        lambda M, D: {"x": wide(M, D), "weight": wide(D)}, M=3, D=144,
    ),
    "add_rms_norm_quantize": of(
        partial(norm_quantize.add_rms_norm_quantize, eps=1e-6), partial(norm_quantize.reference_add, eps=1e-6),
        lambda M, D: {"x": wide(M, D), "residual": wide(M, D), "weight": wide(D)}, M=3, D=144,
    ),
    **both(
        "swiglu", swiglu_fused.swiglu, swiglu.reference, "gate_up",
        lambda B, M, F: {"gate_up": wide(B, M, 2 * F)}, B=2, M=3, F=24, refuses={"F": "gate_up has 0 columns"},
    ),
    "swiglu_quantize": of(
        tuned("swiglu_quantize", swiglu_quantize.swiglu_quantize), swiglu_quantize.reference,
        lambda M, F: {"gate_up": wide(M, 2 * F), "weights": torch.rand(2), "pairs": int32(-1, 1, 0)[:M]}, M=3, F=144,
    ),
    "swiglu_quantize, stacked": of(
        tuned("swiglu_quantize", swiglu_quantize.swiglu_quantize), swiglu_quantize.reference,
        lambda E, R, F: {"gate_up": wide(E, R, 2 * F), "masked_m": int32(*[R] * E)}, E=2, R=3, F=144,
    ),
    "gated_swiglu_backward": of(
        gated_swiglu.gated_swiglu_backward, gated_swiglu.reference,
        lambda R, F, N: {
            "gate_up": wide(R, 2 * F), "dz": wide(R, F), "gates": torch.rand(N),
            "pairs": int32(*[n if n < N else -1 for n in range(R)]),
        },
        R=3, F=24, N=2, nothing="N",
    ),
    **both(
        "rotate", rotary.rotate, rotate.reference, "x",
        lambda B, S, H, R: {
            "x": wide(B, S, H, R), "turns": torch.polar(torch.ones(S, 1, R // 2), torch.rand(S, 1, R // 2))
        },
        B=2, S=3, H=4, R=8,
    ),
    "route": of(
        partial(route_fused.route, plan=PLAN), partial(route.route, plan=PLAN),
        lambda T, E: {"logits": torch.randn(T, E), "bias": torch.rand(E)}, T=3, E=16,
        refuses={"E": "logits has 0 experts"},
    ),
    "order": of(
        lambda chosen, E: order.order(chosen, E, align=16).parts,
        lambda chosen, E: order.reference(chosen, E, 16).parts,
        lambda T, K, E: {"chosen": torch.arange(T * K).view(T, K) % max(E, 1), "E": E}, T=3, K=2, E=4,
        refuses={"E": "E is 0, expected 1 to"},
    ),
    "permute": of(
        tuned("permute", permute.permute), permute.reference_permute,
        lambda T, K, D: {"x": coded(T, D), "made": ordered(T, K, 4, 8), "scales": tiled(T, D)}, T=3, K=2, D=16,
        refuses={"D": "x has rows of 0 bytes"},
    ),
    "permute, gradients": of(
        graded(tuned("permute", permute.permute), "x"), graded(permute.reference_permute, "x"),
        lambda T, K, D: {"x": wide(T, D), "made": ordered(T, K, 4, 8)}, T=3, K=2, D=16,
        refuses={"D": "x has rows of 0 bytes"},
    ),
    **both(
        "unpermute", tuned("unpermute", permute.unpermute), permute.reference_unpermute, "y gates",
        lambda T, K, D: {"y": wide(T * K, D), "made": ordered(T, K, 4), "gates": torch.rand(T, K)}, T=3, K=2, D=16,
    ),
    **both(
        "attention", partial(flash_attention.attention, scale=0.1, causal=False),
        lambda **given: mla_prefill.reference(**given, scale=0.1, causal=False)[0], "q k v",
        attending, B=2, S=3, L=5, H=4, J=2, d=16, v=16, refuses=NO_KEY,
    ),
    "mla_prefill": of(
        tuned("mla_prefill", partial(mla_prefill.mla_prefill, scale=0.1)), partial(mla_prefill.reference, scale=0.1),
        lambda **sizes: {name: x for name, x in prefilled(**sizes).items() if name in "qkv"}, B=2, S=3, H=2,
        nothing="H",
    ),
    "mla_prefill_backward": of(
        tuned("mla_prefill_backward", partial(mla_prefill_backward.mla_prefill_backward, scale=0.1)),
        partial(mla_prefill_backward.reference, scale=0.1), prefilled, B=1, S=3, H=2,
    ),
    "gqa_decode": of(
        tuned("paged_gqa", partial(gqa_decode.gqa_decode, scale=0.1)),
        lambda **given: mla_prefill.reference(**given, scale=0.1)[0],
        attending, B=2, S=3, L=5, H=4, J=2, d=16, v=16, refuses=NO_WIDTH,
    ),
    "paged_gqa": of(
        tuned("paged_gqa", partial(paged_gqa.paged_gqa, scale=0.1)), partial(paged_gqa.reference, scale=0.1),
        paged, B=2, S=1, H=4, J=2, d=16, v=16, columns=2, pages=4, refuses=NO_WIDTH, nothing="pages",
    ),
    "paged_gqa_fp8": of(
        tuned("paged_gqa_fp8", partial(paged_gqa.paged_gqa_fp8, scale=0.1)),
        partial(paged_gqa.reference_fp8, scale=0.1), partial(paged, fp8=True),
        B=2, S=1, H=4, J=2, d=16, v=16, columns=2, pages=4, refuses=NO_WIDTH, nothing="pages",
    ),
    "paged_mla": of(
        tuned("paged_mla", partial(paged_mla.paged_mla, scale=0.1)), partial(paged_mla.reference, scale=0.1),
        latents, B=2, S=1, H=4, C=32, R=16, columns=2, pages=4,
        refuses={"C": "value_dim is 0", "R": "below the queries' width 32", "pages": "expected at least one page"},
    ),
    "paged_mla_fp8": of(
        tuned("paged_mla_fp8", partial(paged_mla.paged_mla, scale=0.1)), partial(paged_mla.reference, scale=0.1),
        partial(latents, C=512, R=64), B=2, S=1, H=4, columns=2, pages=4,
        refuses={"pages": "expected at least one page"},
    ),
    "mla_decode": of(
        tuned("paged_mla", partial(paged_mla.mla_decode, scale=0.1)), partial(mla_decode.reference, scale=0.1),
        lambda B, S, L, H, C, R: {"q": wide(B, S, H, C + R), "latents": wide(B, L, C + R), "value_dim": C},
        B=2, S=1, L=5, H=4, C=32, R=16, nothing="L",
        refuses={"C": "value_dim is 0", "R": "below the queries' width 32"},
    ),
    "append": of(
        written(paged_cache.append, "pages"), written(paged_cache.reference_append, "pages"),
        lambda B, n, C, R, columns, pages: {
            "pages": wide(pages, 64, C + R), "c": wide(B, n, C), "r": wide(B, n, R)
        } | table(B, columns, pages),
        B=2, n=3, C=16, R=8, columns=2, pages=4, refuses={"C": "c has shape .* expected at least one channel"},
        nothing="pages",
    ),
    "quantize_heads": of(
        gqa_quantize.quantize_heads, gqa_quantize.reference_heads, lambda B, J, d: {"x": wide(B, J, d)}, B=2, J=3, d=16,
        refuses={"d": "x has shape .* expected .* with d of 1 to 128"},
    ),
    "append_heads": of(
        written(gqa_quantize.append_heads, "pages", "scales"),
        written(gqa_quantize.reference_append, "pages", "scales"),
        lambda B, n, J, d, columns, pages: {
            "x": wide(B, n, J, d), "pages": coded(pages, 64, J, d), "scales": torch.rand(pages, 64, J)
        } | table(B, columns, pages),
        B=2, n=3, J=3, d=16, columns=2, pages=4, refuses={"d": "x has shape .* expected heads of width 1 to 128"},
    ),
}  # fmt: skip
