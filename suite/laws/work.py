"""What each kernel operation must do at least: FLOPs, and bytes with every tensor moved once. No torch here.

A multiply-add is 2 FLOPs; causal attention counts the pairs it needs. ``peak`` names the ceiling its products run
against: "fp8" or "bf16" for tensor cores, "" for an operation without a matrix product. Letters as in the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

LATENT, ROPE, VALUE, EXPANDED_KEY = 512, 64, 128, 192  # DeepSeek-V3's C, R, V and N + R
FLASHMLA_BYTES = 656  # of one cached token: 512 e4m3, 4 float32 scales, 64 bfloat16


@dataclass(frozen=True)
class Work:
    """FLOPs, bytes, and which peak the FLOPs run against."""

    flops: int
    nbytes: int
    peak: Literal["fp8", "bf16", ""]
    moved: int = 0  # elements, where there are no products to count

    @property
    def elements(self) -> int:
        """What instructions are counted per: multiply-adds, or the elements an operation without them goes over."""
        return self.moved or self.flops // 2

    def bound(self, bandwidth: float, flop_rate: float | None) -> float:
        """Seconds below which no implementation can be; bandwidth in B/s, flop_rate in FLOP/s."""
        return max(self.nbytes / bandwidth, self.flops / flop_rate if self.peak and flop_rate else 0.0)


def tiles(k: int) -> int:
    """Tiles of 128 in k columns."""
    return -(-k // 128)


def quantize_tiles(M: int, K: int) -> Work:
    return Work(0, 2 * M * K + M * K + 4 * M * tiles(K), "", M * K)


def quantize_blocks(N: int, K: int) -> Work:
    return Work(0, 2 * N * K + N * K + 4 * tiles(N) * tiles(K), "", N * K)


def fp8_gemm(M: int, N: int, K: int) -> Work:
    """Quantised operands in, bfloat16 out; quantisation itself not counted."""
    scales = 4 * (M * tiles(K) + tiles(N) * tiles(K))
    return Work(2 * M * N * K, M * K + N * K + scales + 2 * M * N, "fp8")


def fp8_gemm_wgrad(M: int, N: int, K: int) -> Work:
    """(M, K) x (N, K) over K tokens, 1 x 128 tiles on both sides, float32 out."""
    return Work(2 * M * N * K, M * K + N * K + 4 * (M + N) * tiles(K) + 4 * M * N, "fp8")


def grouped_fp8_gemm(E: int, R: int, N: int, K: int) -> Work:
    """E experts with R rows each."""
    scales = 4 * (E * R * tiles(K) + E * tiles(N) * tiles(K))
    return Work(2 * E * R * N * K, E * R * K + E * N * K + scales + 2 * E * R * N, "fp8")


def grouped_fp8_wgrad(E: int, R: int, M: int, N: int) -> Work:
    """E gradients (M, N), each over R tokens, float32 out."""
    nbytes = E * (R * (M + N) + 4 * (M + N) * tiles(R) + 4 * M * N)
    return Work(2 * E * R * M * N, nbytes, "fp8")


def paged_mla(B: int, S: int, H: int, L: int, *, token_bytes: int = 2 * (LATENT + ROPE)) -> Work:
    """Absorbed attention of S queries a row over L cached latents; queries and outputs in bfloat16."""
    ends = B * H * 2 * S * (LATENT + ROPE + LATENT)
    pairs = sum(L - S + s + 1 for s in range(S))
    return Work(2 * B * H * pairs * (2 * LATENT + ROPE), B * L * token_bytes + ends, "bf16")


def paged_mla_fp8(B: int, S: int, H: int, L: int) -> Work:
    """The same over FlashMLA's 656-byte tokens; the products stay in bfloat16."""
    return paged_mla(B, S, H, L, token_bytes=FLASHMLA_BYTES)


def mla_prefill(B: int, H: int, S: int) -> Work:
    """Causal attention with keys of 192 and values of 128 per head, forward."""
    pairs = S * (S + 1) // 2
    nbytes = 2 * B * S * H * (2 * EXPANDED_KEY + 2 * VALUE)
    return Work(2 * B * H * pairs * (EXPANDED_KEY + VALUE), nbytes, "bf16")


def mla_prefill_backward(B: int, H: int, S: int) -> Work:
    """Its gradients: scores once more, then dv, the weights' gradient, dq and dk; q, k, v, out, d_out in, three out."""
    pairs = S * (S + 1) // 2
    nbytes = 2 * B * S * H * (4 * EXPANDED_KEY + 4 * VALUE) + 4 * B * S * H
    return Work(2 * B * H * pairs * (3 * EXPANDED_KEY + 2 * VALUE), nbytes, "bf16")


def paged_gqa(B: int, H: int, J: int, L: int, *, d: int = 128, element: int = 2) -> Work:
    """One query a row over L cached keys and values of J heads."""
    nbytes = B * L * J * 2 * d * element + 2 * 2 * B * H * d
    return Work(2 * B * H * L * 2 * d, nbytes, "bf16")


def paged_gqa_fp8(B: int, H: int, J: int, L: int) -> Work:
    """The same with a cache of e4m3."""
    return paged_gqa(B, H, J, L, element=1)


def route(T: int, E: int, K: int) -> Work:
    """float32 logits and bias in; float32 gates, int64 choices and float32 scores out."""
    return Work(0, 4 * T * E + 4 * E + T * K * (4 + 8) + 4 * T * E, "", T * E)


def permute(T: int, K: int, D: int) -> Work:
    """FP8 rows and their scales copied to K places each."""
    row = D + 4 * tiles(D)
    return Work(0, T * row + T * K * row, "", T * K * D)


def unpermute(T: int, K: int, D: int) -> Work:
    """bfloat16 rows of the K experts gathered, weighted, summed."""
    return Work(0, T * K * (2 * D + 4) + 2 * T * D, "", T * K * D)


def rms_norm_quantize(M: int, D: int) -> Work:
    return Work(0, 2 * M * D + 2 * D + M * D + 4 * M * tiles(D), "", M * D)


def add_rms_norm_quantize(M: int, D: int) -> Work:
    """Residual in and out besides."""
    return Work(0, 3 * 2 * M * D + 2 * D + M * D + 4 * M * tiles(D), "", M * D)


def swiglu_quantize(M: int, F: int) -> Work:
    """gate_up (M, 2F) in, codes (M, F) out."""
    return Work(0, 4 * M * F + M * F + 4 * M * tiles(F), "", M * F)


def fp8_linear(M: int, N: int, K: int) -> Work:
    """bfloat16 in and out, quantisation included; the weight is quantised beforehand."""
    return Work(2 * M * N * K, 2 * M * K + N * K + 4 * tiles(N) * tiles(K) + 2 * M * N, "fp8")


def masked_mlp(E: int, R: int, D: int, F: int) -> Work:
    """The network of E experts with R dispatched rows each: codes in, bfloat16 out; what lies between stays inside."""
    matrices = 3 * D * F + 4 * (tiles(2 * F) * tiles(D) + tiles(D) * tiles(F))
    return Work(2 * E * R * 3 * D * F, E * (matrices + R * (D + 4 * tiles(D) + 2 * D)), "fp8")


WORK: Mapping[str, Callable[..., Work]] = {
    "quantize_tiles": quantize_tiles,
    "dequantize_tiles": quantize_tiles,  # the same bytes, the other way
    "quantize_blocks": quantize_blocks,
    "dequantize_blocks": quantize_blocks,
    "fp8_gemm": fp8_gemm,
    "fp8_gemm_wgrad": fp8_gemm_wgrad,
    "grouped_fp8_gemm": grouped_fp8_gemm,
    "masked_fp8_gemm": grouped_fp8_gemm,
    "grouped_fp8_wgrad": grouped_fp8_wgrad,
    "paged_mla": paged_mla,
    "paged_mla_fp8": paged_mla_fp8,
    "mla_prefill": mla_prefill,
    "mla_prefill_backward": mla_prefill_backward,
    "paged_gqa": paged_gqa,
    "paged_gqa_fp8": paged_gqa_fp8,
    "route": route,
    "permute": permute,
    "unpermute": unpermute,
    "rms_norm_quantize": rms_norm_quantize,
    "add_rms_norm_quantize": add_rms_norm_quantize,
    "swiglu_quantize": swiglu_quantize,
    "fp8_linear": fp8_linear,
    "masked_mlp": masked_mlp,
}


def of(op: str, shape: Mapping[str, int]) -> Work:
    """The work of an operation at a shape."""
    return WORK[op](**shape)
