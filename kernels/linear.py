"""The matrix products of a decoder: x W' + b. The router and the absorbed products of MLA stay outside.

reference   the definition
linear      launcher: torch's own; on a CPU, where no gradient is asked for, ``widened`` and ``turned``
widened     BF16 in float32: on an x86 processor without AVX-512 torch's own product takes as long for each row as for
            one, and from three rows on, of a large weight from nine, longer than this (64 rows of 384 x 128: 10 times)
turned      few rows of a large float32 weight, as W x': torch's x W' takes as long for each as for one (2 to 4 rows of
            V3's sizes on two threads: this takes 0.2 to 0.85 of its time)

``site`` is the weight's name where a recipe may treat its product apart: those in HIGH are never quantised (V3 report,
section 3.3.1), and what w_o reads, the output of attention, is kept in more bits for the backward pass (section 3.3.3).
fp8_linear.py has the form in FP8.

T rows  K input width  N output width
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

HIGH = frozenset({"head", "eh_proj"})
BAND = 1 << 18  # values of a weight in float32: half of a core's cache
FEW = 8  # rows: so many are turned, and of a large BF16 weight so many left to torch
LARGE = 1 << 20  # values of a weight that no core's cache holds


def reference(x: Tensor, w: Tensor, b: Tensor | None = None, *, site: str = "") -> Tensor:
    """x (..., K), w (N, K), b (N) or None -> (..., N)."""
    y = (x.unsqueeze(-2) * w).sum(-1)
    return y if b is None else y + b


def linear(x: Tensor, w: Tensor, b: Tensor | None = None, *, site: str = "") -> Tensor:
    """As ``reference``."""
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        rows = x.numel() // max(1, x.shape[-1])
        if x.dtype == w.dtype == torch.bfloat16 and rows > (2 if w.numel() <= BAND else FEW) and lacks_bf16():
            return widened(x, w, b)
        if x.dtype == w.dtype == torch.float32 and 1 < rows <= FEW and w.numel() >= LARGE:
            return turned(x, w, b)
    return F.linear(x, w, b)


def widened(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """As ``reference``, summed in float32 and rounded once; of a large w a band of rows at a time is made float32."""
    wide = x.float()
    if w.numel() <= BAND:
        y = F.linear(wide, w.float())
    else:
        y = torch.cat([F.linear(wide, band.float()) for band in w.split(max(1, BAND // w.shape[1]))], dim=-1)
    return (y if b is None else y.add_(b)).to(x.dtype)


def turned(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """As ``reference``."""
    y = torch.mm(w, x.reshape(-1, x.shape[-1]).T).T.contiguous()  # (T, N)
    y = y if b is None else y.add_(b)
    return y.view(*x.shape[:-1], len(w))


@cache
def lacks_bf16() -> bool:
    """Whether torch multiplies BF16 row by row here. With AVX-512 it does not, and other processors were not tried."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"
