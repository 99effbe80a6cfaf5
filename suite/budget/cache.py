"""What a storage format of the KV cache costs: bytes, and the error of one layer's attention over context length.

    Layer       one layer's cache and the queries that read it, of MLA (absorbed, over latents) or GQA
    synthetic   such a layer of a model's shape, from a stated distribution
    storages    the formats of its tensors by name, windows too
    cost        bytes and error of a layer in a format

Synthetic tokens are all alike: no token is nearer than another, so a window loses its whole share of the context.

B rows  H heads  J heads that are cached (MLA: 1, the latent)  L tokens  W key width  V value width  C latent width
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Generator, Tensor
from v3bench.model_ref import kv_formats
from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.kv_formats import Storage
from v3bench.suite import models
from v3bench.suite.budget.error import error
from v3bench.suite.laws.slices import is_slice
from v3bench.suite.ledger.data import choose
from v3bench.suite.meter.measurement import Scale
from v3bench.suite.meter.scale import of_preset

OUTLIER, ONE_OF = 10.0, 64  # one channel of 64 is ten times as wide as the others; of keys it lies as far off zero
SHARPNESS = (0.5, 3.0)  # standard deviation of the scores over the tokens, from the first head to the last
WINDOW = re.compile(r"window-(\d+)(?:-sinks-(\d+))?")
DISTRIBUTIONS = ("gaussian", "outlier-channels")
SEED = 6561


@dataclass(frozen=True)
class Layer:
    """q (B, H, W) of one token; ``cached`` is (keys, values), each (B, J, L, .), or of MLA (latents,).

    A latent is the key, and with its first ``value_dim`` channels the value; ``w_uv`` (H, V, C) makes it each head's.
    """

    q: Tensor
    cached: tuple[Tensor, ...]
    scale: float
    value_dim: int = 0
    w_uv: Tensor | None = None

    def to(self, device: torch.device | str) -> Layer:
        """The same on another device."""
        w_uv = None if self.w_uv is None else self.w_uv.to(device)
        return replace(self, q=self.q.to(device), cached=tuple(x.to(device) for x in self.cached), w_uv=w_uv)

    def attend(self, cached: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Cached tensors, perhaps of fewer tokens -> weights (B, H, L) and outputs (B, H, V)."""
        k, v = (cached[0], cached[0][..., : self.value_dim]) if len(cached) == 1 else cached
        (B, H, W), J = self.q.shape, k.shape[1]
        weights = (self.q.view(B, J, H // J, W) @ k.transpose(-1, -2) * self.scale).softmax(-1)
        out = (weights @ v).view(B, H, -1)
        if self.w_uv is not None:
            out = torch.einsum("bhc,hvc->bhv", out, self.w_uv)
        return weights.view(B, H, -1), out


@dataclass(frozen=True)
class Cost:
    """Of a layer in a format, against the same layer in float32."""

    bytes_per_token: float  # of a row in this layer, over all tokens of the context, kept or not
    relative: float  # root mean square over all heads
    worst_head: float
    cosine: float
    worst_cosine: float  # of a head
    lost: float  # share of the attention weights that lies on tokens that are not kept, mean of the heads
    worst_lost: float  # of a head


BYTES = "kv_bytes_per_token_and_layer"
FIGURES = (  # metric, field of Cost, what the convention adds
    ("relative_error", "relative", "root mean square"),
    ("worst_row_error", "worst_head", "a row is a head"),
    ("cosine", "cosine", "all heads"),
    ("cosine", "worst_cosine", "worst head"),
    (BYTES, "bytes_per_token", ""),
    ("attention_lost", "lost", "mean of the heads"),
    ("attention_lost", "worst_lost", "worst head"),
)


@torch.no_grad()
def cost(layer: Layer, formats: Sequence[Storage]) -> Cost:
    """``formats``: one for each cached tensor. Raises BadInput for a width that a format does not have."""
    B, _, L, _ = layer.cached[0].shape
    weights, want = layer.attend(layer.cached)
    stored = [form.store(x) for form, x in zip(formats, layer.cached, strict=True)]
    _, got = layer.attend([form.load(one) for form, one in zip(formats, stored, strict=True)])
    heads = [error(got[:, h].flatten(), want[:, h].flatten()) for h in range(want.shape[1])]
    lost = (1 - weights[..., formats[0].kept(L)].sum(-1)).clamp(min=0).mean(0)  # (H)
    whole = error(got, want)
    return Cost(
        bytes_per_token=sum(one.nbytes for one in stored) / (B * L),
        relative=whole.relative,
        worst_head=max(one.relative for one in heads),
        cosine=whole.cosine,
        worst_cosine=min(one.cosine for one in heads),
        lost=float(lost.mean()),
        worst_lost=float(lost.max()),
    )


def storages(kind: str, name: str, latent: int = 0) -> tuple[Storage, ...]:
    """``kind`` "mla" (tokens of ``latent`` channels and a decoupled key) or "gqa"; a name of kv_formats, or
    window-W or window-W-sinks-S, whose tokens are in bfloat16. Raises BadInput.
    """
    choose(kind, ("mla", "gqa"), "kind of attention", "KV format")
    window, sinks = 0, 0
    if found := WINDOW.fullmatch(name):
        name, window, sinks = "bf16", int(found[1]), int(found[2] or 0)
    if kind == "mla":
        return (kv_formats.mla(name, latent, window, sinks),)
    return kv_formats.gqa(name, window, sinks)


def storages_of(config: models.AnyConfig, name: str) -> tuple[Storage, ...]:
    """The same for the layers of a model."""
    return storages("mla", name, config.kv_lora_rank) if isinstance(config, Config) else storages("gqa", name)


@cache
def synthetic(subject: str, distribution: str, L: int, number: int = 0) -> Layer:
    """The ``number``-th layer of a preset's shape, float32, one row of L tokens, always the same.

    Values are Gaussian. Keys too, or with "outlier-channels" as KIVI found them: see OUTLIER. Latents likewise, around
    zero, since they are values too, and normalised as MLA's kv_norm does. Queries are Gaussian, of a length that gives
    the scores each head's SHARPNESS.
    """
    choose(distribution, DISTRIBUTIONS, "distribution", "cache")
    config, generator = models.load(subject)[1], Generator().manual_seed(SEED + number)

    def tokens(J: int, W: int, off: float) -> Tensor:
        x = torch.randn(1, J, L, W, generator=generator)
        return x if distribution == "gaussian" else with_outliers(x, off, generator)

    H = config.num_attention_heads
    if isinstance(config, Config):
        C, R, N, V = config.kv_lora_rank, config.qk_rope_head_dim, config.qk_nope_head_dim, config.v_head_dim
        c = tokens(1, C, 0.0)
        c = c * torch.rsqrt(c.square().mean(-1, keepdim=True))
        latents = torch.cat((c, torch.randn(1, 1, L, R, generator=generator)), -1)
        w_uk, w_uv = (torch.randn(H, width, C, generator=generator) * C**-0.5 for width in (N, V))
        q_c, q_r = torch.randn(1, H, N, generator=generator), torch.randn(1, H, R, generator=generator)
        q = torch.cat((torch.einsum("bhn,hnc->bhc", q_c, w_uk), q_r), -1)
        return sharpened(Layer(q, (latents,), 1.0, C, w_uv))
    J, d = config.num_key_value_heads, config.head_dim
    k, v = tokens(J, d, 1.0), torch.randn(1, J, L, d, generator=generator)
    return sharpened(Layer(torch.randn(1, H, d, generator=generator), (k, v), 1.0))


def with_outliers(x: Tensor, off: float, generator: Generator) -> Tensor:
    """x (B, J, L, W), Gaussian -> one channel in ONE_OF of each head, at least one, OUTLIER times x + ``off``."""
    for head in x.unbind(1):
        where = torch.randperm(x.shape[-1], generator=generator)[: -(-x.shape[-1] // ONE_OF)]
        head[..., where] = OUTLIER * (head[..., where] + off)
    return x


def sharpened(layer: Layer) -> Layer:
    """Its queries scaled so that the scores of head h over the tokens have the standard deviation SHARPNESS asks."""
    (B, H, W), k = layer.q.shape, layer.cached[0]
    scores = (layer.q.view(B, k.shape[1], -1, W) @ k.transpose(-1, -2)).view(B, H, -1)
    low, high = SHARPNESS
    wanted = low * (high / low) ** torch.linspace(0, 1, H)
    return Layer(layer.q * (wanted / scores.std(-1))[..., None], layer.cached, 1.0, layer.value_dim, layer.w_uv)


def shortened(layer: Layer, L: int) -> Layer:
    """The same queries over the last L tokens. Raises BadInput where there are fewer."""
    if not 0 < L <= layer.cached[0].shape[2]:
        raise BadInput(f"{L} tokens of {layer.cached[0].shape[2]}", where="cache")
    return Layer(layer.q, tuple(x[:, :, -L:] for x in layer.cached), layer.scale, layer.value_dim, layer.w_uv)


def granted(subject: str) -> Scale:
    """ "slice" where the subject is a released model, of whose layers one has been drawn: widths and heads are its."""
    if of_preset(subject) != "full":
        return "proxy"
    config = models.load(subject)[1]
    shape = {"H": config.num_attention_heads}
    if isinstance(config, Config):
        return "slice" if is_slice("paged_mla", shape, config) else "proxy"
    return "slice" if is_slice("paged_gqa", shape | {"J": config.num_key_value_heads}, config) else "proxy"
