"""Parts of a decode step of DeepSeek-V3 at its own sizes: with one token of each request, or with two.

Real modules of one dense and one MoE layer, of the MTP module and of the head, random weights, a part in memory at a
time. Routed experts are those that one GPU of ``ep`` holds, ceil(E / EP), with the rows that a balanced share of all
tokens brings it: K a token, in turn over its experts. EP1 holds all, and every token goes to K random ones.

B requests  n tokens of each in the step  D hidden_size  E n_routed_experts  K num_experts_per_tok
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from v3bench.kernels.ops import TORCH, Ops
from v3bench.kernels.route import Routing
from v3bench.model_ref import precision
from v3bench.model_ref.cache import Cache
from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model
from v3bench.model_ref.moe import Experts
from v3bench.suite.laws.speculation import experts_held
from v3bench.suite.mtp.conventions import DENSE_FFN, EXPERTS, HEAD, MLA, PROJECTION, SHARED
from v3bench.suite.mtp.part_source import TOKENS, Part, Run, Source, Step, size

DRAWN = 16  # routings of EP1 that a timing goes round, as the number of different experts varies


def build(name: str, config: Config, device: str, *, ep: int = 1, ways: int = 1, ops: Ops | None = None) -> Part:
    """A part by its name. ``ep``: GPUs that share the routed experts; ``ways``: those that share the head's rows.

    float32 on a CPU; bfloat16 on a GPU, by this project's kernels. Raises BadInput for a name that is none.
    """
    makers = {MLA: mla, DENSE_FFN: dense, SHARED: shared, EXPERTS: experts, PROJECTION: projection, HEAD: head}
    if name not in makers:
        raise BadInput(f"no part {name!r}", where="parts", right=f"one of {', '.join(makers)}")
    on_gpu = device == "cuda"
    ops = ops or (precision.on_kernels(precision.BF16) if on_gpu else TORCH)
    layers = config.replace(num_hidden_layers=2, first_k_dense_replace=1, num_nextn_predict_layers=1)
    model = Model(layers, ops=ops, device="meta", dtype=torch.bfloat16 if on_gpu else torch.float32)
    return makers[name](Source(model, device, ep, ways))


def mla(source: Source) -> Part:
    """Attention with the norm before it, over a cache of ``context`` tokens."""
    block: Any = source.model.layers[0]
    model = source.model
    copies = source.real(nn.ModuleList([block.attn_norm, block.attn]))

    def at(B: int, context: int) -> Step:
        h, like = source.inputs(B), model.embed.weight
        cache = Cache(1, B, context + TOKENS, model.entry, device=source.device, dtype=like.dtype, grows=False)
        cache.layers[0].copy_(source.random(*cache.layers[0].shape))
        turns = model.rope.run(context, TOKENS, cache.layers[0]).unsqueeze(-2)

        def run(copy: int, tokens: range) -> Tensor:
            both: Any = copies[copy]
            cache.set_lengths([context + tokens.start] * B)
            out: Tensor = both[1](h[tokens], both[0], turns[tokens.start : tokens.stop], cache, 0)
            return out

        return step(run, copies, 1, cache.nbytes * context / (context + TOKENS))

    return Part(copies, at)


def dense(source: Source) -> Part:
    """A dense layer's feed-forward network with the norm before it."""
    block: Any = source.model.layers[0]
    copies = source.real(nn.ModuleList([block.ffn_norm, block.ffn]))
    return by_token(source, copies, lambda both, x: both[1](x, None, both[0]))


def shared(source: Source) -> Part:
    """A MoE layer's shared expert."""
    block: Any = source.model.layers[1]
    copies = source.real(block.ffn.shared)
    return by_token(source, copies, lambda ffn, x: ffn(x))


def projection(source: Source) -> Part:
    """eh_proj of the MTP module, with its two norms."""
    module: Any = source.model.mtp[0]
    module.block = nn.Identity()
    copies = source.real(module)
    return by_token(source, copies, lambda mtp, x: mtp.joined(x, x))


def head(source: Source) -> Part:
    """Logits of one GPU's rows of the vocabulary."""
    model = source.model
    W, D, dtype = model.config.vocab_size // source.ways, model.config.hidden_size, model.embed.weight.dtype
    copies = source.real(nn.Linear(D, W, bias=False, device="meta", dtype=dtype))
    return by_token(source, copies, lambda one, h: model.ops.linear(h, one.weight, site="head"))


def by_token(source: Source, copies: Sequence[nn.Module], apply: Callable[[Any, Tensor], Tensor]) -> Part:
    """A part that reads (B, n, D) and knows no token's place."""

    def at(B: int, context: int) -> Step:
        x = source.inputs(B)
        return step(lambda copy, tokens: apply(copies[copy], x[tokens]), copies, 1)

    return Part(copies, at)


def experts(source: Source) -> Part:
    """Routed experts of one GPU."""
    config, ops, alone = source.model.config, source.model.ops, source.ep == 1
    held, K = experts_held(config, source.ep), config.num_experts_per_tok
    place = config.replace(n_routed_experts=held, n_group=1, topk_group=1, num_experts_per_tok=min(K, held))
    made = Experts(place, ops, device="meta", dtype=source.model.embed.weight.dtype)
    copies = source.real(made, 1 if alone else None)

    def at(B: int, context: int) -> Step:
        each = B if alone else B * K  # rows that a token of each request brings
        x = source.random(TOKENS * each, config.hidden_size)
        chosen = drawn(TOKENS * each, held, K) if alone else (torch.arange(TOKENS * each) % held)[None, :, None]
        gates = torch.full_like(chosen[0], 1 / chosen.shape[2], dtype=torch.float32).to(x.device)
        routings = [Routing(gates, one, gates) for one in chosen.to(x.device)]
        count = max(len(copies), len(routings))

        def run(copy: int, tokens: range) -> Tensor:
            rows = slice(tokens.start * each, tokens.stop * each)
            routing = Routing(*(field[rows] for field in routings[copy % len(routings)]))
            out: Tensor = copies[copy % len(copies)](x[rows], routing)
            return out

        one = size(copies[0]) / held
        read = [sum(len(c[: n * each].unique()) for c in chosen) / len(chosen) * one for n in (1, TOKENS)]
        return Step(torch.inference_mode()(run), count, 0, (read[0], read[1]))

    return Part(copies, at)


def drawn(rows: int, held: int, K: int) -> Tensor:
    """Different experts of each token, uniform at random, int64 (DRAWN, rows, K)."""
    return torch.rand(DRAWN, rows, held).topk(K, dim=-1).indices


def step(run: Run, copies: Sequence[nn.Module], axis: int, beside: float = 0.0) -> Step:
    """A step that reads all weights and, ``beside`` them, so many bytes of cache, however many tokens it has."""
    read = size(copies[0]) + beside
    return Step(torch.inference_mode()(run), len(copies), axis, (read, read))
