"""Attention of MLA in its absorbed form: all heads read one latent per token (V2 paper, section 2.1.2).

    reference    the definition
    mla_decode   launcher

B batch  S new tokens (1, or a few when drafts are verified)  L cached tokens, the new ones included
H heads  C latent width  R decoupled key width
"""

from __future__ import annotations

import torch
from torch import Tensor
from v3bench.kernels.attention import visible
from v3bench.kernels.operation import operation

FEW = 4  # new tokens, each hidden by a write of its own: less work than a mask over all that is cached


def reference(q: Tensor, latents: Tensor, *, value_dim: int, scale: float, lengths: Tensor | None = None) -> Tensor:
    """q (B, S, H, C+R), latents (B, L, C+R) -> (B, S, H, C), with C = value_dim.

    A latent is key (all of it) and value (its first C channels) at once. Query s is token
    lengths[b] - S + s of its row and sees the tokens up to itself; without ``lengths``, L for every row.
    Computed in at least float32, rounded once.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    latents = latents.to(wide)
    scores = torch.einsum("bshw,blw->bhsl", q.to(wide), latents) * scale
    seen = visible(q.shape[1], latents.shape[1], causal=True, window=None, lengths=lengths, device=q.device)
    weights = scores.masked_fill(~seen[:, None], float("-inf")).softmax(dim=-1)
    return torch.einsum("bhsl,blc->bshc", weights, latents[..., :value_dim]).to(q.dtype)


@operation
def mla_decode(q: Tensor, latents: Tensor, *, value_dim: int, scale: float, lengths: Tensor | None = None) -> Tensor:
    """As ``reference``."""
    (B, S, H, W), L = q.shape, latents.shape[1]
    scores = products(q.reshape(B, S * H, W), latents).mul_(scale)  # (B, SH, L)
    if lengths is not None or S > FEW:
        seen = visible(S, L, causal=True, window=None, lengths=lengths, device=q.device)
        scores = scores.view(B, S, H, L).masked_fill_(~seen[:, :, None], float("-inf")).view(B, S * H, L)
    else:  # only the new tokens hide anything from each other
        each = scores.view(B, S, H, L)
        for s in range(S - 1):
            each[:, s, :, L - S + 1 + s :] = float("-inf")
    weights = scores.softmax(dim=-1).to(q.dtype)
    return torch.bmm(weights, latents[..., :value_dim]).view(B, S, H, value_dim)


def products(q: Tensor, latents: Tensor) -> Tensor:
    """q (B, M, W), latents (B, L, W) -> (B, M, L), in at least float32: bfloat16 has steps of an eighth at 16 to 32."""
    keys = latents.transpose(1, 2)
    if q.dtype in (torch.float32, torch.float64):
        return torch.bmm(q, keys)
    if q.is_cuda and not torch.is_grad_enabled():
        return torch.bmm(q, keys, out_dtype=torch.float32)  # has no gradient, and is CUDA's only
    return torch.bmm(q.float(), keys.float())
