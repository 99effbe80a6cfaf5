"""Block-scaled FP8 weights as DeepSeek-V3 releases them (V3 report, section 3.3.2).

    reference    the definition of dequantisation: code * the inverse scale of its block
    dequantize   launcher

One float32 scale per block of 128 x 128 codes; the last blocks of a side may be ragged.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = (128, 128)


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
    (M, N), (rows, columns) = codes.shape, block
    if tuple(scale_inv.shape) != (want := (-(-M // rows), -(-N // columns))):
        raise ValueError(f"scale_inv of a {M} x {N} weight has shape {tuple(scale_inv.shape)}, expected {want}")
    scales = scale_inv.float().repeat_interleave(columns, dim=1)[:, :N]  # (ceil(M/128), N)
    out = codes.float()
    for i in range(scales.shape[0]):  # a band of rows at a time: no second full-size float copy
        out[i * rows : (i + 1) * rows] *= scales[i]
    return out.to(dtype)
