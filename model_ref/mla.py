"""Multi-head latent attention (V3 report, section 2.1.1, eq. 1-11).

Keys and values of all heads come from one latent c_kv per token; only it and one decoupled, rotated key k_r
are cached. The two forms of attention are equal: ``expanded`` makes every head's keys and values, as printed;
``absorbed`` moves W_UK into the query and W_UV behind the sum, so that the heads read the latents themselves.

B batch  S new tokens  L cached tokens, the new ones included  D hidden_size  H num_attention_heads
Q q_lora_rank  C kv_lora_rank  N qk_nope_head_dim  R qk_rope_head_dim  V v_head_dim
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from v3bench.kernels.ops import Ops
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.config import Config
from v3bench.model_ref.norm import RMSNorm
from v3bench.model_ref.rope import softmax_factor

LATENT_EPS = 1e-6  # the released code's, for q_norm and kv_norm, whatever rms_norm_eps is


class MLA(nn.Module):
    """h (B, S, D), and the norm before -> u (B, S, D): only projections read the paper's h_t, the normalised h."""

    def __init__(
        self,
        config: Config,
        ops: Ops,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        D, H, Q, C = config.hidden_size, config.num_attention_heads, config.q_lora_rank, config.kv_lora_rank
        N, R, V = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        if Q is None:
            self.w_q = weight(H * (N + R), D)
        else:
            self.w_dq = weight(Q, D)
            self.q_norm = RMSNorm(Q, LATENT_EPS, ops, device=device, dtype=dtype)
            self.w_uq = weight(H * (N + R), Q)  # W_UQ and W_QR, interleaved by head
        self.w_dkv = weight(C + R, D)  # W_DKV, then W_KR
        self.kv_norm = RMSNorm(C, LATENT_EPS, ops, device=device, dtype=dtype)
        self.w_ukv = weight(H * (N + V), C)  # W_UK and W_UV, interleaved by head
        self.w_o = weight(D, H * V)
        biased = config.attention_bias
        self.b_dq = weight(Q) if biased and Q is not None else None
        self.b_dkv = weight(C + R) if biased else None
        self.b_o = weight(D) if biased else None
        self.scale = (N + R) ** -0.5 * softmax_factor(config.rope_scaling)

    def forward(self, h: Tensor, norm: RMSNorm, turns: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        """Causal attention over h and the cache's tokens before it; ``turns`` of h's positions, (.., S, 1, R/2)."""
        w_q = self.w_q if self.config.q_lora_rank is None else self.w_dq
        q, kv = norm.linears(h, (w_q, self.w_dkv), (self.b_dq, self.b_dkv))  # eq. 6; 1, 3
        q_c, q_r = self.queries(q, turns)
        c_kv, k_r = self.latents(kv, turns)
        if cache is None:
            return self.output(self.expanded(q_c, q_r, c_kv, k_r))
        latents = cache.append(layer, c_kv, k_r)  # (B, L, C+R)
        if cache.longest == 0:  # a prefill: there is nothing but the new tokens
            return self.output(self.expanded(q_c, q_r, c_kv, k_r))
        lengths = None if cache.uniform else cache.lengths + h.shape[1]
        if self.absorbing_is_cheaper(h.shape[1]):
            return self.output(self.absorbed(q_c, q_r, latents, lengths))
        c_kv, k_r = latents.split([self.config.kv_lora_rank, self.config.qk_rope_head_dim], dim=-1)
        return self.output(self.expanded(q_c, q_r, c_kv, k_r, lengths))

    def queries(self, q: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """W_DQ h (B, S, Q), or q (B, S, H(N+R)) without W_DQ -> q_c (B, S, H, N), q_r (B, S, H, R)."""
        config = self.config
        if config.q_lora_rank is not None:
            (q,) = self.q_norm.linears(q, (self.w_uq,))  # (B, S, H(N+R))  eq. 7, 8
        q = q.view(*q.shape[:2], config.num_attention_heads, -1)  # (B, S, H, N+R)
        q_c, q_r = q.split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)
        return q_c, self.ops.rotate(q_r, turns)

    def latents(self, kv: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """W_DKV h and W_KR h side by side (B, S, C+R) -> c_kv (B, S, C), k_r (B, S, R): what is cached."""
        c_kv, k_r = kv.split([self.config.kv_lora_rank, self.config.qk_rope_head_dim], dim=-1)
        k_r = self.ops.rotate(k_r.unsqueeze(2), turns).squeeze(2)  # (B, S, R)  eq. 3
        return self.kv_norm(c_kv), k_r  # (B, S, C)

    def expanded(self, q_c: Tensor, q_r: Tensor, c_kv: Tensor, k_r: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As printed: c_kv (B, L, C), k_r (B, L, R) -> per-head outputs (B, S, H, V)."""
        H, N, V = self.config.num_attention_heads, self.config.qk_nope_head_dim, self.config.v_head_dim
        kv = self.ops.linear(c_kv, self.w_ukv).unflatten(-1, (H, N + V))
        k_c, v_c = kv.split([N, V], dim=-1)  # (B, L, H, N) eq. 2, (B, L, H, V) eq. 5
        q = torch.cat((q_c, q_r), dim=-1)  # (B, S, H, N+R)  eq. 9
        k = torch.cat((k_c, k_r.unsqueeze(-2).expand(-1, -1, H, -1)), dim=-1)  # (B, L, H, N+R)  eq. 4
        return self.ops.attention(q, k, v_c, scale=self.scale, causal=True, lengths=lengths)  # eq. 10

    def absorbed(self, q_c: Tensor, q_r: Tensor, latents: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The same from latents (B, L, C+R), c_kv and k_r side by side: q_c W_UK c_kv is (W_UK' q_c) c_kv."""
        (B, S, H, N), C = q_c.shape, self.config.kv_lora_rank
        w_uk, w_uv = self.w_ukv.view(H, -1, C).split([N, self.config.v_head_dim], dim=1)  # (H, N, C), (H, V, C)
        q_abs = torch.bmm(q_c.reshape(B * S, H, N).transpose(0, 1), w_uk)  # (H, BS, C)
        q = torch.cat((q_abs.transpose(0, 1).view(B, S, H, C), q_r), dim=-1)  # (B, S, H, C+R)
        u = self.ops.mla_decode(q, latents, value_dim=C, scale=self.scale, lengths=lengths)  # (B, S, H, C)
        u = torch.bmm(u.view(B * S, H, C).transpose(0, 1), w_uv.transpose(1, 2))  # (H, BS, V)
        return u.transpose(0, 1).reshape(B, S, H, -1)  # (B, S, H, V)

    def output(self, u: Tensor) -> Tensor:
        """Per-head outputs (B, S, H, V) -> (B, S, D)."""
        return self.ops.linear(u.flatten(2), self.w_o, self.b_o, site="w_o")  # eq. 11

    def absorbing_is_cheaper(self, S: int) -> bool:
        """Whether S new tokens cost fewer multiplications absorbed, over a long cache.

        Per cached token and head: expanding costs C(N+V) once and N+R+V per query; absorbed, 2C+R per query.
        """
        C, N, V = self.config.kv_lora_rank, self.config.qk_nope_head_dim, self.config.v_head_dim
        return S * (2 * C - N - V) < C * (N + V)
