"""Softmax attention over per-head keys and values: MHA, GQA, MQA, and MLA in its expanded form.

    visible     which key each query may see
    reference   the definition: scores, mask, softmax, weighted sum
    attention   launcher: torch's fused attention

B batch  S queries  L keys (S <= L)  H heads  J key-value heads  d query and key width  v value width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.kernels.operation import operation


def visible(
    S: int, L: int, *, causal: bool, window: int | None, lengths: Tensor | None, device: torch.device
) -> Tensor:
    """Whether query s of row b sees key l: bool (B or 1, S, L).

    The queries are the last S of the row's ``lengths[b]`` valid keys (of all L keys, without ``lengths``).
    A ``window`` counts the tokens a query sees, itself included.
    """
    key = torch.arange(L, device=device)
    end = torch.full((1, 1), L, device=device) if lengths is None else lengths.to(device)[:, None]
    position = end - S + torch.arange(S, device=device)  # (B or 1, S)
    seen = key <= position[..., None] if causal else (key < end[..., None]).expand(-1, S, -1)
    if window is not None:
        seen = seen & (key > position[..., None] - window)
    return seen


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """q (B, S, H, d), k (B, L, J, d), v (B, L, J, v) -> (B, S, H, v); J divides H, lengths int (B) or None.

    Computed in at least float32, rounded once.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    groups = q.shape[2] // k.shape[2]
    k, v = (x.to(wide).repeat_interleave(groups, dim=2) for x in (k, v))
    scores = torch.einsum("bshd,blhd->bhsl", q.to(wide), k) * scale
    seen = visible(q.shape[1], k.shape[1], causal=causal, window=window, lengths=lengths, device=q.device)
    weights = scores.masked_fill(~seen[:, None], float("-inf")).softmax(dim=-1)
    return torch.einsum("bhsl,blhv->bshv", weights, v).to(q.dtype)


@operation
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """As ``reference``."""
    (B, S, H, _), (L, J) = q.shape, k.shape[1:3]
    if window is not None and window >= L:
        window = None
    # One query: the heads that share a key become its queries (B, J, H/J, d), and no key has to be repeated.
    q = q.reshape(B, J, H // J, -1) if S == 1 else q.transpose(1, 2)
    square = causal and S == L and window is None and lengths is None
    mask = None
    if not square and ((S > 1 and causal) or window is not None or lengths is not None):
        mask = visible(S, L, causal=causal, window=window, lengths=lengths, device=q.device)[:, None]
    out = fused(q, k.transpose(1, 2), v.transpose(1, 2), mask, square and S > 1, scale)
    return out.reshape(B, 1, H, -1) if S == 1 else out.transpose(1, 2)


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """scaled_dot_product_attention on (B, H, S, d), (B, J, L, d), (B, J, L, v) -> (B, H, S, v)."""
    width = v.shape[-1]
    # On a CPU only equal widths take the fused path; without it all S x L scores are written out.
    if v.device.type == "cpu" and width < k.shape[-1]:
        v = F.pad(v, (0, k.shape[-1] - width))
    gqa = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=gqa)
    return out[..., :width]
