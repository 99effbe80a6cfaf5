"""A model's own modules counted on the meta device, beside the formulas of suite/laws: equal as integers or not."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
from torch import nn
from v3bench.model_ref.config import Config
from v3bench.suite.laws import flops, kv, params
from v3bench.suite.meter.count import Count, CountError, counting
from v3bench.suite.models import AnyConfig, build

# A parameter's or buffer's name -> its part in laws/params.py; the first that is found decides.
ROLES = (
    (r"norm\.weight$", "norms"),
    (r"\be_score_correction_bias$", "router_bias"),
    (r"\bb_\w+$|\bbias$", "biases"),
    (r"^embed\.weight$", "embedding"),
    (r"^head\.weight$", "head"),
    (r"\beh_proj\.weight$", "mtp_projection"),
    (r"\bexperts\.", "routed_experts"),
    (r"\bshared\.", "shared_experts"),
    (r"\bgate\.weight$", "router"),
    (r"\battn\.", "attention"),
    (r"\bffn\.", "dense_ffn"),
)
MULTIPLIED = {"attention": "attention_projections", "embedding": "head"}  # a table is multiplied as the tied head only


def role(name: str) -> str:
    """The part a stored tensor belongs to. Raises CountError."""
    for pattern, part in ROLES:
        if re.search(pattern, name):
            return part
    raise CountError(f"parameter {name!r} has no known role")


def multiplied_in(name: str) -> str:
    """The part of laws/flops.py that products with this parameter belong to."""
    return MULTIPLIED.get(part := role(name), part)


def stored(model: nn.Module) -> tuple[Counter[str], Counter[str]]:
    """Scalars of the state dict by part: the main model's, and the MTP modules'."""
    main: Counter[str] = Counter()
    mtp: Counter[str] = Counter()
    for name, tensor in model.state_dict().items():
        (mtp if name.startswith("mtp.") else main)[role(name)] += tensor.numel()
    return main, mtp


def kv_bytes_per_token(model: Any, lengths: tuple[int, int] = (4096, 8192)) -> int:
    """B of cache per token, from the bytes of the tensors of two cache objects."""
    short, long = (model.new_cache(1, length).nbytes for length in lengths)
    whole, rest = divmod(long - short, lengths[1] - lengths[0])
    if rest:
        raise CountError(f"the cache grows by {long - short} B over {lengths[1] - lengths[0]} tokens: not evenly")
    return int(whole)


@torch.no_grad()
def prefill(model: Any, seq_len: int, batch: int = 1) -> Count:
    """Forward over whole sequences, the head on every token."""
    device = next(model.parameters()).device
    with counting(model, multiplied_in) as count:
        model(torch.zeros(batch, seq_len, dtype=torch.int64, device=device))
    return count


@torch.no_grad()
def decode(model: Any, context: int, batch: int = 1) -> Count:
    """One token per row over a cache that holds ``context`` tokens with it; at least 2, or nothing is cached."""
    device = next(model.parameters()).device
    cache = model.new_cache(batch, context)
    cache.set_lengths([context - 1] * batch)
    with counting(model, multiplied_in) as count:
        model.decode(torch.zeros(batch, 1, dtype=torch.int64, device=device), cache)
    return count


@torch.no_grad()
def mtp(model: Any, seq_len: int) -> Count:
    """All MTP modules and their heads; depth k sees seq_len + 1 - k tokens."""
    weight = model.embed.weight
    ids = torch.zeros(1, seq_len + 2, dtype=torch.int64, device=weight.device)
    with counting(model, multiplied_in) as count:
        for h in model.further(weight.new_zeros(1, seq_len + 1, weight.shape[1]), ids):
            model.logits(h)
    return count


def mtp_formula(config: AnyConfig, seq_len: int) -> int:
    """What ``mtp`` should count."""
    if not isinstance(config, Config) or not config.num_nextn_predict_layers:
        return 0
    one = config.replace(num_nextn_predict_layers=1)
    return sum(flops.mtp(one, seq_len - k) for k in range(config.num_nextn_predict_layers))


def counted_model(config: AnyConfig, seq_len: int) -> dict[str, Any]:
    """The ``counted`` object of ``v3bench model --count --json``: what was counted, and each check against its formula.

    Raises CountError when an operation is not understood.
    """
    model = build(config, device="meta", dtype=torch.bfloat16)
    formula = params.count(config)
    parts, mtp_parts = stored(model)
    total = sum(parts.values())
    activated = total - unchosen(config, parts["routed_experts"])
    context = max(seq_len, 2)
    forward, one = prefill(model, seq_len), decode(model, context)
    bytes_per_token = kv_bytes_per_token(model)
    checks = [
        check("parameters", total, formula.total),
        check("parameters activated", activated, formula.activated),
        check("parameters mtp", sum(mtp_parts.values()), formula.mtp),
        check("kv bytes per token, bf16", bytes_per_token, kv.bytes_per_token(config) or 0),
        check("flops prefill, causal", forward.total, flops.forward(config, seq_len)),
        check("flops prefill, full", forward.total_full, flops.forward(config, seq_len, causal=False)),
        check(f"flops decode at {context}", one.total, flops.decode(config, context)),
    ]
    counted: dict[str, Any] = {
        "params": {"total": total, "activated": activated, "mtp": sum(mtp_parts.values())},
        "params_by_part": dict(parts),
        "kv_bytes_per_token": {"bf16": bytes_per_token},
        "flops": {"prefill_causal": forward.total, "prefill_full": forward.total_full, "decode": one.total},
        "flops_by_part": {"prefill_causal": dict(forward.by_part), "decode": dict(one.by_part)},
        "flops_by_operation": {"prefill_causal": dict(forward.by_operation), "decode": dict(one.by_operation)},
    }
    if mtp_parts and isinstance(config, Config) and seq_len > config.num_nextn_predict_layers:
        extra = mtp(model, seq_len)
        counted["flops"]["mtp"] = extra.total
        counted["flops_by_part"]["mtp"] = dict(extra.by_part)
        checks.append(check("flops mtp", extra.total, mtp_formula(config, seq_len)))
    return {**counted, "checks": checks, "agrees": all(row["agrees"] for row in checks)}


def unchosen(config: AnyConfig, experts: int) -> int:
    """Of the routed experts' scalars, those one token does not read."""
    if not isinstance(config, Config):
        return 0
    return experts // config.n_routed_experts * (config.n_routed_experts - config.num_experts_per_tok)


def check(name: str, counted: int, formula: int) -> dict[str, Any]:
    return {"name": name, "counted": counted, "formula": formula, "agrees": counted == formula}
