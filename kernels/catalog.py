"""Which file of this folder holds which tuned operation. Each such file has, besides its launchers:

example(op, shape, config)    the operation's launches at a shape, on the meta device
CANDIDATES[op]                configurations worth trying, the best guess first
TABLE_SHAPES[op]              shapes the launch table has rows for; keys as in suite/laws/work.py
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULES = {
    "quantize_tiles": "quantize",
    "dequantize_tiles": "dequantize",
    "quantize_blocks": "quantize",
    "dequantize_blocks": "dequantize",
    "fp8_gemm": "fp8_gemm",
    "fp8_gemm_wgrad": "fp8_gemm_wgrad",
    "grouped_fp8_gemm": "grouped_fp8_gemm",
    "masked_fp8_gemm": "masked_fp8_gemm",
    "grouped_fp8_wgrad": "fp8_gemm_wgrad",
    "paged_mla": "paged_mla",
    "paged_mla_fp8": "paged_mla",
    "mla_prefill": "mla_prefill",
    "mla_prefill_backward": "mla_prefill_backward",
    "paged_gqa": "paged_gqa",
    "paged_gqa_fp8": "paged_gqa",
    "route": "route_fused",
    "permute": "permute",
    "unpermute": "permute",
    "rms_norm_quantize": "norm_quantize",
    "add_rms_norm_quantize": "norm_quantize",
    "swiglu_quantize": "swiglu_quantize",
}


def module(op: str) -> Any:
    """The module of an operation, imported when asked for. Raises KeyError for an unknown one."""
    return import_module(f"v3bench.kernels.{MODULES[op]}")
