"""Which file holds the trial of which operation; a trial is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module

from v3bench.model_ref.errors import BadInput
from v3bench.suite.trials.trial import Trial

FILES = {
    "quantize_tiles": "quantize",
    "dequantize_tiles": "quantize",
    "quantize_blocks": "quantize",
    "dequantize_blocks": "quantize",
    "fp8_gemm": "fp8_gemm",
    "fp8_gemm_wgrad": "fp8_gemm_wgrad",
    "grouped_fp8_gemm": "grouped_fp8_gemm",
    "masked_fp8_gemm": "masked_fp8_gemm",
    "grouped_fp8_wgrad": "fp8_gemm_wgrad",
    "paged_mla": "paged_mla",
    "paged_mla_fp8": "paged_mla",
    "mla_prefill": "mla_prefill",
    "mla_prefill_backward": "mla_prefill",
    "paged_gqa": "paged_gqa",
    "paged_gqa_fp8": "paged_gqa",
    "route": "route",
    "permute": "permute",
    "unpermute": "permute",
    "rms_norm_quantize": "norm_quantize",
    "add_rms_norm_quantize": "norm_quantize",
    "swiglu_quantize": "swiglu_quantize",
    "fp8_linear": "layers",
    "masked_mlp": "layers",
}


def load(op: str) -> Trial:
    """The trial of an operation. Raises BadInput for an unknown one."""
    if op not in FILES:
        raise BadInput(f"unknown operation {op!r}", where="kernels", right=f"one of {', '.join(FILES)}")
    trials: dict[str, Trial] = import_module(f"v3bench.suite.trials.{FILES[op]}").TRIALS
    return trials[op]
