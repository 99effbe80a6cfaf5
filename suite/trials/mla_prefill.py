"""Trials of causal attention with keys of 192 and values of 128 per head, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from v3bench.kernels import mla_prefill, mla_prefill_backward
from v3bench.kernels.mla_prefill import KEY, VALUE
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.trial import Inputs, Missing, Rival, Shape, Trial, package

LSE_BAR = 1e-4  # sums of float32 products of exact operands: a few units of 1e-7 per score
CHUNK = 2048  # queries that the oracle takes at a time: float64 scores of one head then take 256 MB at 16384 keys
MOST_SCORES = 2**32  # float32 elements that the compiled definition may write out: 16 GiB


def wide(shape: Shape, device: str) -> Inputs:
    """B, H, S as in laws/work.py."""
    B, H, S = (shape[name] for name in "BHS")
    q, k, v = (torch.randn(B, S, H, d, device=device, dtype=torch.bfloat16) for d in (KEY, KEY, VALUE))
    return {"q": q, "k": k, "v": v, "scale": KEY**-0.5}


def oracle(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The definition in float64, by head and by chunks of queries: all scores at once would not fit."""
    (B, S, H, _), device = q.shape, q.device
    out = torch.empty(B, S, H, VALUE, dtype=torch.float64, device=device)
    lse = torch.empty(B, H, S, dtype=torch.float64, device=device)
    for b, h, first in ((b, h, s) for b in range(B) for h in range(H) for s in range(0, S, CHUNK)):
        last = min(first + CHUNK, S)
        own = (slice(b, b + 1), slice(0, last), slice(h, h + 1))  # the chunk's queries are the last of these keys
        queries = q[b : b + 1, first:last, h : h + 1].double()
        part = mla_prefill.reference(queries, k[own].double(), v[own].double(), scale=scale)
        out[b, first:last, h], lse[b, h, first:last] = part[0][0, :, 0], part[1][0, 0]
    return out, lse


def close(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], inputs: Inputs) -> float:
    """Outputs as ``output_close``, and lse within LSE_BAR."""
    lse = float((got[1].double() - want[1]).abs().max() / LSE_BAR)
    return max(output_close(got, want, inputs), lse if lse == lse else float("inf"))


def output_close(got: Any, want: tuple[Tensor, Tensor], inputs: Inputs) -> float:
    """Worst row's error in units of one rounding to bfloat16.

    Two roundings happen, of the weights and of the result, each 0.2 to 0.3 of a unit in the mean square: a right
    kernel stays below a half. A key left out of a row of n takes 128 / sqrt(n) units.
    """
    return rounding_error(got[0] if isinstance(got, tuple) else got, want[0], torch.bfloat16)


def with_gradient(shape: Shape, device: str) -> Inputs:
    """The same, with what the forward made of it, rounded as it leaves it, and a gradient."""
    inputs = wide(shape, device)
    out, lse = oracle(**inputs)
    return inputs | {"out": out.bfloat16(), "lse": lse.float(), "d_out": torch.randn_like(out).bfloat16()}


def gradient_oracle(**inputs: Any) -> tuple[Tensor, ...]:
    """The definition in float64, head by head."""
    scale, lse = inputs.pop("scale"), inputs.pop("lse")
    heads = []
    for h in range(lse.shape[1]):
        own = {name: x[:, :, h : h + 1].double() for name, x in inputs.items()}
        heads.append(mla_prefill_backward.reference(**own, lse=lse[:, h : h + 1].double(), scale=scale))
    return tuple(torch.cat(parts, dim=2) for parts in zip(*heads, strict=True))


def gradients_close(got: tuple[Tensor, ...], want: tuple[Tensor, ...], inputs: Inputs) -> float:
    """Worst row of dq, dk, dv in units of three roundings to bfloat16: of weights, of their slopes, of the result.

    A row is held to its own size, but to no less than a thousandth of the largest: the first query has one weight, and
    its gradient is what float32 leaves of a difference of equals. Typical rows of 16384 keys are ten times that size.
    """
    return max(gradient_close(mine, exact) for mine, exact in zip(got, want, strict=True))


def gradient_close(got: Tensor, want: Tensor) -> float:
    """Of one gradient; inf where it is not finite."""
    if got.shape != want.shape or not bool(torch.isfinite(got).all()):
        return float("inf")
    size = want.square().mean(-1).sqrt()
    error = (got.double() - want).square().mean(-1).sqrt() / size.clamp(min=float(size.max()) / 1000)
    return float(error.max() / (torch.finfo(torch.bfloat16).eps * 3**0.5))


def on_cuda(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as (B, H, S, ..), without a copy. Raises Missing."""
    if not inputs["q"].is_cuda:
        raise Missing("needs a CUDA device")
    q, k, v = (inputs[name].transpose(1, 2) for name in "qkv")
    return q, k, v


def cudnn(inputs: Inputs) -> Callable[[], Tensor]:
    """cuDNN through torch, which takes unequal widths on Hopper."""
    q, k, v = on_cuda(inputs)

    def run() -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=inputs["scale"]).transpose(1, 2)

    return run


def flash_attention_2(inputs: Inputs) -> Callable[[], Tensor]:
    """torch's FlashAttention-2 knows equal widths only: values are padded, beforehand."""
    q, k, v = on_cuda(inputs)
    padded = F.pad(v, (0, KEY - VALUE))

    def run() -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            out = F.scaled_dot_product_attention(q, k, padded, is_causal=True, scale=inputs["scale"])
        return out[..., :VALUE].transpose(1, 2)

    return run


def flex(inputs: Inputs) -> Callable[[], Tensor]:
    """flex_attention compiled, with a causal block mask made beforehand."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = on_cuda(inputs)
    S = q.shape[2]
    mask = create_block_mask(lambda b, h, s, l: s >= l, None, None, S, S, device=q.device)
    function = torch.compile(flex_attention, dynamic=False)
    return lambda: function(q, k, v, block_mask=mask, scale=inputs["scale"]).transpose(1, 2)


def compiled(inputs: Inputs) -> Callable[[], tuple[Tensor, Tensor]]:
    """torch.compile of the definition, which writes all scores out."""
    B, S, H, _ = inputs["q"].shape
    if B * H * S * S > MOST_SCORES:
        raise Missing(f"would write out {4 * B * H * S * S / 2**30:.0f} GiB of scores")
    function = torch.compile(mla_prefill.reference, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: function(**inputs)


def flash_attention_3(inputs: Inputs) -> Callable[[], Any]:
    """flash_attn_func, which takes unequal widths."""
    library = package("flash_attn_interface")
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    return lambda: library.flash_attn_func(q, k, v, softmax_scale=inputs["scale"], causal=True)


def flashinfer(inputs: Inputs) -> Callable[[], Tensor]:
    """BatchPrefillWithRaggedKVCacheWrapper, planned beforehand."""
    library = package("flashinfer")
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    B, S, H, _ = q.shape
    workspace = torch.empty(128 * 2**20, dtype=torch.uint8, device=q.device)
    wrapper = library.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD")
    ends = torch.arange(B + 1, dtype=torch.int32, device=q.device) * S
    wrapper.plan(
        ends, ends, H, H, KEY, head_dim_vo=VALUE, causal=True, sm_scale=inputs["scale"],
        q_data_type=q.dtype, kv_data_type=k.dtype,
    )  # fmt: skip
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    return lambda: wrapper.run(*flat).view(B, S, H, VALUE)


def compiled_gradients(inputs: Inputs) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """torch.compile of the definition of the gradients, which writes scores and slopes out."""
    B, S, H, _ = inputs["q"].shape
    if B * H * S * S > MOST_SCORES:
        raise Missing(f"would write out {4 * B * H * S * S / 2**30:.0f} GiB of scores")
    function = torch.compile(mla_prefill_backward.reference, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: function(**inputs)


def cudnn_gradients(inputs: Inputs) -> Callable[[], tuple[Tensor, ...]]:
    """cuDNN's backward through torch's autograd, of a forward made beforehand: by the first call on a stream.

    Autograd goes back on the stream that the forward ran on, and a capture takes work on its own stream only.
    """
    q, k, v = (x.detach().requires_grad_() for x in on_cuda(inputs))
    d_out = inputs["d_out"].transpose(1, 2)
    made: dict[torch.cuda.Stream, Tensor] = {}

    def run() -> tuple[Tensor, ...]:
        stream = torch.cuda.current_stream()
        if stream not in made:
            made.clear()
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                made[stream] = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=inputs["scale"])
        grads = torch.autograd.grad(made[stream], (q, k, v), d_out, retain_graph=True)
        return tuple(g.transpose(1, 2) for g in grads)

    return run


# One tile, several with an odd end, and rows of a batch beside each other.
SMALL = ({"B": 1, "H": 1, "S": 16}, {"B": 2, "H": 2, "S": 37}, {"B": 1, "H": 3, "S": 70})
SMALL_CONFIG = {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2}
SMALL_GRADIENTS = {
    "KEYS_M": 32, "KEYS_N": 32, "KEYS_warps": 4, "KEYS_stages": 2,
    "QUERIES_M": 32, "QUERIES_N": 32, "QUERIES_warps": 4, "QUERIES_stages": 2,
}  # fmt: skip
OPERANDS = "q, k (B, S, H, 192), v (B, S, H, 128) bfloat16"
TRIALS = {
    "mla_prefill": Trial(
        op="mla_prefill",
        calling=f"f(q, k, v, scale): {OPERANDS}; scale float -> out (B, S, H, 128) bfloat16, lse (B, H, S) float32, "
        "natural logarithm. Query s sees keys 0 to s",
        inputs=wide,
        ours=mla_prefill.mla_prefill,
        oracle=oracle,
        error=close,
        rivals={
            "cudnn": Rival(cudnn, "cuDNN through torch, without lse", output_close),
            "flash": Rival(flash_attention_2, "FlashAttention-2 of torch, values padded to 192", output_close),
            "flex": Rival(flex, "flex_attention compiled, causal block mask", output_close),
            "compiled": Rival(compiled, "torch.compile of the definition", close),
            "flash_attention_3": Rival(flash_attention_3, "FlashAttention-3", output_close),
            "flashinfer": Rival(flashinfer, "FlashInfer, ragged prefill, planned beforehand", output_close),
        },
        small=SMALL,
        small_config=SMALL_CONFIG,
    ),
    "mla_prefill_backward": Trial(
        op="mla_prefill_backward",
        calling=f"f(q, k, v, out, lse, d_out, scale): {OPERANDS}; out, d_out (B, S, H, 128) bfloat16; lse (B, H, S) "
        "float32; scale float -> dq, dk (B, S, H, 192), dv (B, S, H, 128) bfloat16",
        inputs=with_gradient,
        ours=mla_prefill_backward.mla_prefill_backward,
        oracle=gradient_oracle,
        error=gradients_close,
        rivals={
            "cudnn": Rival(cudnn_gradients, "cuDNN through torch's autograd, from its own forward's out"),
            "compiled": Rival(compiled_gradients, "torch.compile of the definition", gradients_close),
        },
        small=SMALL,
        small_config=SMALL_GRADIENTS,
    ),
}
