"""Block-scaled FP8 weights as DeepSeek-V3 releases them (V3 report, section 3.3.2).

    reference         the definition of dequantisation: code * the inverse scale of its block
    dequantize        launcher
    dequantize_into   the same into float32 memory that is there
    product           x W' of such a weight W on a CPU

On a CPU codes become numbers by their bits: torch's own conversion takes several times as long.

One float32 scale per block of 128 x 128 codes; the last blocks of a side may be ragged.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    for band, values, scales in bands(codes, scale_inv, block):
        out[band].copy_(values).mul_(scales)
    if codes.device.type == "cpu" and has_nan(codes):
        out[codes.isnan()] = torch.nan
    return out


def product(x: Tensor, codes: Tensor, scale_inv: Tensor, out: Tensor, block: tuple[int, int] = BLOCK) -> Tensor:
    """x (T, N) times the weight's transpose into out (T, M), which is returned; float32, codes without NaN.

    The weight is never whole: each band of it is multiplied while it is in a CPU's cache. Raises ValueError.
    """
    w = torch.empty(min(block[0], len(codes)), codes.shape[1], dtype=torch.float32, device=codes.device)
    for band, values, scales in bands(codes, scale_inv, block):
        rows = w[: band.stop - band.start].copy_(values).mul_(scales)
        torch.mm(x, rows.T, out=out[:, band])
    return out


def bands(codes: Tensor, scale_inv: Tensor, block: tuple[int, int]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(rows, values of codes or on a CPU 2^-HALF of them, what to multiply them with), one block high each.

    Raises ValueError.
    """
    (M, N), (rows, columns) = codes.shape, block
    if tuple(scale_inv.shape) != (want := (-(-M // rows), -(-N // columns))):
        raise ValueError(f"scale_inv of a {M} x {N} weight has shape {tuple(scale_inv.shape)}, expected {want}")
    scales = scale_inv.float().repeat_interleave(columns, dim=1)[:, :N]  # (ceil(M/128), N)
    larger = scales * 2.0**HALF
    by_bits = codes.device.type == "cpu" and bool(larger.isfinite().all())
    bits = torch.empty(min(rows, M), N, dtype=torch.int16) if by_bits else None
    for i, factors in enumerate(larger if by_bits else scales):
        band = slice(i * rows, min((i + 1) * rows, M))
        values = codes[band] if bits is None else as_half(codes[band], bits[: band.stop - band.start])
        yield band, values, factors


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
