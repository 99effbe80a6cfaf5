"""MLA: its two forms are one function, and every cached path is the uncached one."""

from __future__ import annotations

import itertools

import pytest
import torch
from v3bench.kernels.ops import REFERENCE, TORCH, Ops
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.mla import MLA
from v3bench.model_ref.norm import RMSNorm
from v3bench.model_ref.rope import Rope

from .tiny import config

OPTIONS = list(itertools.product([None, 24], [False, True]))


def mla_of(q_lora_rank: int | None, attention_bias: bool, ops: Ops = TORCH) -> MLA:
    mla = MLA(config(q_lora_rank=q_lora_rank, attention_bias=attention_bias), ops, dtype=torch.float64)
    with torch.no_grad():
        for parameter in mla.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return mla


def norm_of(mla: MLA) -> RMSNorm:
    norm = RMSNorm(48, 1e-6, mla.ops, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.normal_(1.0, 0.3, generator=torch.Generator().manual_seed(0))
    return norm


def turns_of(mla: MLA, start: int, count: int) -> torch.Tensor:
    return Rope(mla.config, mla.config.qk_rope_head_dim).run(start, count, mla.w_o)[:, None]


@pytest.mark.parametrize(("q_lora_rank", "bias"), OPTIONS)
@pytest.mark.parametrize("ops", [TORCH, REFERENCE], ids=lambda ops: ops.name)
def test_absorbed_equals_expanded(q_lora_rank: int | None, bias: bool, ops: Ops) -> None:
    mla = mla_of(q_lora_rank, bias, ops)
    h, turns = torch.randn(2, 7, 48, dtype=torch.float64), turns_of(mla, 0, 7)
    q, kv = norm_of(mla).linears(h, (mla.w_q if q_lora_rank is None else mla.w_dq, mla.w_dkv), (mla.b_dq, mla.b_dkv))
    (q_c, q_r), (c_kv, k_r) = mla.queries(q, turns), mla.latents(kv, turns)
    expanded = mla.expanded(q_c, q_r, c_kv, k_r)
    assert expanded.abs().mean() > 0.1
    torch.testing.assert_close(mla.absorbed(q_c, q_r, torch.cat((c_kv, k_r), -1)), expanded)
    few = mla.absorbed(q_c[:, 5:], q_r[:, 5:], torch.cat((c_kv, k_r), -1))
    torch.testing.assert_close(few, expanded[:, 5:])


@pytest.mark.parametrize(("q_lora_rank", "bias"), OPTIONS)
def test_equals_the_equations_one_head_and_token_at_a_time(q_lora_rank: int | None, bias: bool) -> None:
    """Eq. 1-11 with plain loops, the rotation as two-by-two turns."""
    mla = mla_of(q_lora_rank, bias)
    c = mla.config
    H, N, R, V, C = c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim, c.kv_lora_rank
    S = 5
    before, norm = torch.randn(S, 48, dtype=torch.float64), norm_of(mla)

    def rms(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean() + 1e-6).sqrt() * w

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        out = x.clone()
        for i in range(R // 2):
            angle = torch.tensor(position * c.rope_theta ** (-2 * i / R), dtype=torch.float64)
            out[2 * i] = x[2 * i] * angle.cos() - x[2 * i + 1] * angle.sin()
            out[2 * i + 1] = x[2 * i + 1] * angle.cos() + x[2 * i] * angle.sin()
        return out

    h = [rms(row, norm.weight) for row in before]
    zero = torch.zeros((), dtype=torch.float64)
    keys, values, queries = [], [], []
    for t in range(S):
        down = mla.w_dkv @ h[t] + (zero if mla.b_dkv is None else mla.b_dkv)
        latent = rms(down[:C], mla.kv_norm.weight)
        kv = (mla.w_ukv @ latent).view(H, N + V)
        keys.append([torch.cat((kv[i, :N], turned(down[C:], t))) for i in range(H)])
        values.append([kv[i, N:] for i in range(H)])
        if q_lora_rank is None:
            q = mla.w_q @ h[t]
        else:
            q = mla.w_uq @ rms(mla.w_dq @ h[t] + (zero if mla.b_dq is None else mla.b_dq), mla.q_norm.weight)
        queries.append([torch.cat((row[:N], turned(row[N:], t))) for row in q.view(H, N + R)])
    outputs = []
    for t in range(S):
        heads = []
        for i in range(H):
            scores = torch.stack([queries[t][i] @ keys[j][i] for j in range(t + 1)]) / (N + R) ** 0.5
            heads.append(sum(p * values[j][i] for j, p in enumerate(scores.softmax(0))))
        outputs.append(mla.w_o @ torch.cat(heads) + (zero if mla.b_o is None else mla.b_o))
    torch.testing.assert_close(mla(before[None], norm, turns_of(mla, 0, S))[0], torch.stack(outputs))


@pytest.mark.parametrize("chunks", [[9], [1] * 9, [4, 5], [3, 1, 2, 3], [2, 7]])
@pytest.mark.parametrize("wide", [False, True], ids=["absorbing", "expanding"])
def test_chunks_over_a_cache_equal_the_whole(chunks: list[int], wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mla = mla_of(24, True)
    monkeypatch.setattr(mla, "absorbing_is_cheaper", lambda S: not wide)
    h, norm = torch.randn(2, 9, 48, dtype=torch.float64), norm_of(mla)
    want = mla(h, norm, turns_of(mla, 0, 9))
    cache, start = Cache(1, 2, 9, (28,), dtype=torch.float64), 0
    for n in chunks:
        got = mla(h[:, start : start + n], norm, turns_of(mla, start, n), cache)
        torch.testing.assert_close(got, want[:, start : start + n])
        cache.advance(n)
        start += n


def test_long_chunks_are_expanded_and_short_ones_absorbed() -> None:
    shapes = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "v_head_dim": 128}
    mla = MLA(config(**shapes), TORCH, device="meta")
    # 170.67 = 512 x 256 / 768: up to there absorbing is cheaper.
    assert mla.absorbing_is_cheaper(1)
    assert mla.absorbing_is_cheaper(170)
    assert not mla.absorbing_is_cheaper(171)
    narrow = MLA(config(kv_lora_rank=8, qk_nope_head_dim=12, v_head_dim=10), TORCH, device="meta")
    assert narrow.absorbing_is_cheaper(10**6)


def test_scale_holds_yarns_mscale() -> None:
    yarn = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale_all_dim": 1.0}
    plain, stretched = (MLA(config(rope_scaling=s), TORCH, device="meta").scale for s in (None, yarn))
    assert plain == pytest.approx(20**-0.5)
    assert stretched / plain == pytest.approx(1.3688879454113936**2)
