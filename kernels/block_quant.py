"""Block-scaled FP8 weights as DeepSeek-V3 releases them (V3 report, section 3.3.2).

    reference         the definition of dequantisation: code * the inverse scale of its block
    dequantize        launcher
    dequantize_into   the same into float32 memory that is there: on a CPU without a conversion from FP8, which takes
                      torch ten times as long

One float32 scale per block of 128 x 128 codes; the last blocks of a side may be ragged.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = (128, 128)
HALF = 8  # binary digits by which the exponent biases of float16 and e4m3 differ


def reference(codes: Tensor, scale_inv: Tensor, dtype: torch.dtype, block: tuple[int, int] = BLOCK) -> Tensor:
    """codes (M, N) float8_e4m3fn, scale_inv (ceil(M/128), ceil(N/128)) -> (M, N) in ``dtype``."""
    M, N = codes.shape
    out = torch.empty(M, N, dtype=torch.float32, device=codes.device)
    for i in range(0, M, block[0]):
        for j in range(0, N, block[1]):
            tile = slice(i, i + block[0]), slice(j, j + block[1])
            out[tile] = codes[tile].float() * scale_inv[i // block[0], j // block[1]]
    return out.to(dtype)


def dequantize(codes: Tensor, scale_inv: Tensor, dtype: torch.dtype, block: tuple[int, int] = BLOCK) -> Tensor:
    """As ``reference``. Raises ValueError where the scales do not fit the codes."""
    out = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    return dequantize_into(out, codes, scale_inv, block).to(dtype)


def dequantize_into(out: Tensor, codes: Tensor, scale_inv: Tensor, block: tuple[int, int] = BLOCK) -> Tensor:
    """As ``reference`` into out (M, N) float32, which is returned. Raises ValueError."""
    (M, N), (rows, columns) = codes.shape, block
    if tuple(scale_inv.shape) != (want := (-(-M // rows), -(-N // columns))):
        raise ValueError(f"scale_inv of a {M} x {N} weight has shape {tuple(scale_inv.shape)}, expected {want}")
    scales = scale_inv.float().repeat_interleave(columns, dim=1)[:, :N]  # (ceil(M/128), N)
    larger = scales * 2.0**HALF
    by_bits = codes.device.type == "cpu" and bool(larger.isfinite().all())
    scales = larger if by_bits else scales
    bits = torch.empty(min(rows, M), N, dtype=torch.int16) if by_bits else None
    for i in range(scales.shape[0]):  # a band of rows at a time, which stays in a CPU's cache
        band = slice(i * rows, min((i + 1) * rows, M))
        values = codes[band] if bits is None else as_half(codes[band], bits[: band.stop - band.start])
        out[band].copy_(values).mul_(scales[i])
    if by_bits and has_nan(codes):
        out[codes.isnan()] = torch.nan
    return out


def as_half(codes: Tensor, bits: Tensor) -> Tensor:
    """codes e4m3 as float16 of 2^-HALF the value, in ``bits`` int16: sign, exponent and fraction shifted into place.

    Exact, zero and subnormal ones too; NaN becomes a number.
    """
    bits.copy_(codes.view(torch.uint8))
    bits.bitwise_left_shift_(8).bitwise_right_shift_(1).bitwise_and_(~0x4000)  # the sign came down along with the rest
    return bits.view(torch.float16)


def has_nan(codes: Tensor) -> bool:
    """Whether a code is NaN: 0x7f or 0xff, the largest of int8 and of uint8."""
    if not codes.numel():
        return False
    return codes.view(torch.int8).max().item() == 0x7F or codes.view(torch.uint8).max().item() == 0xFF
