"""Trials of decoding over pages of keys and values (kernels/paged_gqa.py): rows of L tokens, in scattered pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from v3bench.kernels import paged_gqa as gqa
from v3bench.kernels.gqa_decode import FP8, PAGE
from v3bench.kernels.gqa_quantize import reference_heads
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.trial import Inputs, Missing, Rival, Shape, Trial, package

LSE_BAR = 1e-4  # sums of float32 products of exact operands: a few units of 1e-7 per score


def wide(shape: Shape, device: str) -> Inputs:
    """B, H, J, L as in laws/work.py; S (1) queries a row and d (128) channels a head."""
    B, H, J, L = (shape[name] for name in "BHJL")
    S, d, per_row = shape.get("S", 1), shape.get("d", 128), -(-L // PAGE)
    pages = B * per_row
    k, v = (torch.randn(pages, PAGE, J, d, device=device, dtype=torch.bfloat16) for _ in range(2))
    return {
        "q": torch.randn(B, S, H, d, device=device, dtype=torch.bfloat16),
        "k_pages": k,
        "v_pages": v,
        "block_table": torch.randperm(pages, device=device).view(B, per_row).int(),
        "lengths": torch.full((B,), L, device=device, dtype=torch.int32),
        "scale": d**-0.5,
    }


def narrow(shape: Shape, device: str) -> Inputs:
    """The same, keys and values quantised per token and head."""
    inputs = wide(shape, device)
    for x in "kv":
        inputs[f"{x}_pages"], inputs[f"{x}_scales"] = reference_heads(inputs[f"{x}_pages"])
    return inputs


def oracle(q: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
    """The definition in float64, row by row: all rows at once would not fit."""
    table, lengths = inputs.pop("block_table"), inputs.pop("lengths")
    define: Callable[..., Any] = gqa.reference_fp8 if "k_scales" in inputs else gqa.reference
    rows = []
    for b in range(len(q)):
        own = {name: x[table[b]] if isinstance(x, Tensor) else x for name, x in inputs.items()}
        pages = torch.arange(table.shape[1], device=q.device)[None]
        rows.append(define(q[b : b + 1].double(), **own, block_table=pages, lengths=lengths[b : b + 1]))
    return torch.cat([out for out, _ in rows]), torch.cat([lse for _, lse in rows])


def close(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], inputs: Inputs) -> float:
    """Outputs as ``output_close``, and lse within LSE_BAR."""
    lse = float((got[1].double() - want[1]).abs().max() / LSE_BAR)
    return max(output_close(got, want, inputs), lse if lse == lse else float("inf"))


def output_close(got: Any, want: tuple[Tensor, Tensor], inputs: Inputs) -> float:
    """Worst head's error in units of one rounding to bfloat16.

    Two roundings happen, of the weights and of the result, each 0.2 to 0.3 of a unit in the mean square: a right
    kernel stays below a half.
    """
    out = got[0] if isinstance(got, tuple) else got
    return rounding_error(out.view(want[0].shape), want[0], torch.bfloat16)


def contiguous(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Keys and values (B, J, L, d) without pages: what an attention that knows no table would be given."""
    L = int(inputs["lengths"].max())
    k, v = (inputs[f"{x}_pages"][inputs["block_table"]].flatten(1, 2)[:, :L] for x in "kv")
    return k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()


def one_query(inputs: Inputs) -> tuple[Tensor, int]:
    """q (B, H, d) and J; Missing where a row has several queries, which these rivals would want a mask for."""
    if inputs["q"].shape[1] != 1:
        raise Missing("compared with one query a row")
    return inputs["q"][:, 0], inputs["k_pages"].shape[2]


def torch_sdpa(backend: SDPBackend) -> Callable[[Inputs], Callable[[], Tensor]]:
    """One backend of torch's; the heads that share a key are its queries, so that no key is read twice."""

    def build(inputs: Inputs) -> Callable[[], Tensor]:
        q, J = one_query(inputs)
        if not q.is_cuda:
            raise Missing("needs a CUDA device")
        k, v = contiguous(inputs)
        packed = q.unflatten(1, (J, -1))  # (B, J, G, d)

        def run() -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(packed, k, v, scale=inputs["scale"])

        return run

    return build


def torch_sdpa_gqa(inputs: Inputs) -> Callable[[], Tensor]:
    """torch's own choice of backend, told of the groups by enable_gqa, as models call it."""
    q, _ = one_query(inputs)
    k, v = contiguous(inputs)
    heads = q.unsqueeze(2)  # (B, H, 1, d)
    return lambda: F.scaled_dot_product_attention(heads, k, v, scale=inputs["scale"], enable_gqa=True)


def flex(inputs: Inputs) -> Callable[[], Tensor]:
    """torch's flex_attention, compiled: its flash-decoding template."""
    from torch.nn.attention.flex_attention import flex_attention

    q, _ = one_query(inputs)
    k, v = contiguous(inputs)
    function = torch.compile(flex_attention, dynamic=False)
    heads = q.unsqueeze(2)
    return lambda: function(heads, k, v, scale=inputs["scale"], enable_gqa=True)


def compiled(reference: Callable[..., Any]) -> Callable[[Inputs], Callable[[], Any]]:
    """torch.compile of the plain definition, pages and all."""

    def build(inputs: Inputs) -> Callable[[], Any]:
        function = torch.compile(reference, mode="max-autotune-no-cudagraphs", dynamic=False)
        return lambda: function(**inputs)

    return build


def flashinfer(inputs: Inputs) -> Callable[[], Tensor]:
    """BatchDecodeWithPagedKVCacheWrapper, planned beforehand, on the same pages; of e4m3 without scales."""
    library = package("flashinfer")
    q, J = one_query(inputs)
    k, v, table = inputs["k_pages"], inputs["v_pages"], inputs["block_table"]
    (B, H, d), per_row = q.shape, table.shape[1]
    workspace = torch.empty(128 * 2**20, dtype=torch.uint8, device=q.device)
    wrapper = library.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
    indptr = torch.arange(B + 1, dtype=torch.int32, device=q.device) * per_row
    last = inputs["lengths"] - (per_row - 1) * PAGE
    wrapper.plan(
        indptr, table.flatten(), last, H, J, d, PAGE,
        q_data_type=q.dtype, kv_data_type=k.dtype, sm_scale=inputs["scale"],
    )  # fmt: skip
    return lambda: wrapper.run(q, (k, v))


def flash_attention_3(inputs: Inputs) -> Callable[[], Tensor]:
    """flash_attn_with_kvcache on the same pages."""
    library = package("flash_attn_interface")
    call = {
        "cache_seqlens": inputs["lengths"],
        "page_table": inputs["block_table"],
        "softmax_scale": inputs["scale"],
        "causal": True,
    }
    return lambda: library.flash_attn_with_kvcache(inputs["q"], inputs["k_pages"], inputs["v_pages"], **call)


def flash_attention_3_fp8(inputs: Inputs) -> Callable[[], Tensor]:
    """The same on e4m3, the query too, with one scale per row and head."""
    library = package("flash_attn_interface")
    one = torch.ones(len(inputs["q"]), inputs["k_pages"].shape[2], device=inputs["q"].device)
    call = {
        "cache_seqlens": inputs["lengths"],
        "page_table": inputs["block_table"],
        "softmax_scale": inputs["scale"],
        "causal": True,
        **{f"{x}_descale": one for x in "qkv"},
    }
    q = inputs["q"].to(FP8)
    return lambda: library.flash_attn_with_kvcache(q, inputs["k_pages"], inputs["v_pages"], **call)


SMALL = (
    {"B": 2, "H": 6, "J": 2, "L": 70, "d": 128},
    {"B": 1, "H": 4, "J": 4, "L": 65, "S": 3, "d": 24},
    {"B": 1, "H": 8, "J": 1, "L": 130, "S": 2, "d": 64},
)
SMALL_CONFIG = {"BLOCK_N": 64, "PROGRAMS": 4, "num_warps": 4, "num_stages": 2}
CONTIGUOUS = "over a contiguous copy of keys and values (B, J, L, d), made beforehand"
ARGUMENTS = (
    "q (B, S, H, d) bfloat16; k_pages, v_pages (pages, 64, J, d) {dtype}; {scales}block_table (B, most pages) and "
    "lengths (B) int32; scale float -> out (B, S, H, d) bfloat16, lse (B, S, H) float32, natural logarithm. Query s is "
    "token lengths[b] - S + s of its row and sees the tokens up to itself"
)
TRIALS = {
    "paged_gqa": Trial(
        op="paged_gqa",
        calling="f(q, k_pages, v_pages, block_table, lengths, scale): " + ARGUMENTS.format(dtype="bfloat16", scales=""),
        inputs=wide,
        ours=gqa.paged_gqa,
        oracle=oracle,
        error=close,
        rivals={
            "cudnn": Rival(torch_sdpa(SDPBackend.CUDNN_ATTENTION), f"cuDNN {CONTIGUOUS}", output_close),
            "flash": Rival(torch_sdpa(SDPBackend.FLASH_ATTENTION), f"FlashAttention-2 {CONTIGUOUS}", output_close),
            "sdpa": Rival(torch_sdpa_gqa, f"torch's choice, enable_gqa, {CONTIGUOUS}", output_close),
            "flex": Rival(flex, f"flex_attention compiled, {CONTIGUOUS}", output_close),
            "compiled": Rival(compiled(gqa.reference), "torch.compile of the definition", close),
            "flashinfer": Rival(flashinfer, "FlashInfer, same pages, planned beforehand", output_close),
            "flash_attention_3": Rival(flash_attention_3, "FlashAttention-3, same pages", output_close),
        },
        small=SMALL,
        small_config=SMALL_CONFIG,
    ),
    "paged_gqa_fp8": Trial(
        op="paged_gqa_fp8",
        calling="f(q, k_pages, v_pages, k_scales, v_scales, block_table, lengths, scale): "
        + ARGUMENTS.format(dtype="float8_e4m3fn", scales="k_scales, v_scales (pages, 64, J) float32; "),
        inputs=narrow,
        ours=gqa.paged_gqa_fp8,
        oracle=oracle,
        error=close,
        rivals={
            "compiled": Rival(compiled(gqa.reference_fp8), "torch.compile of the definition", close),
            "flashinfer": Rival(flashinfer, "FlashInfer on the same codes, scales left out: one for all there"),
            "flash_attention_3": Rival(
                flash_attention_3_fp8, "FlashAttention-3 on the same codes; query in e4m3 too, one scale a head"
            ),
        },
        small=SMALL,
        small_config=SMALL_CONFIG,
        precision="fp8",
    ),
}
