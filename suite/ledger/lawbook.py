"""The functions a derivation may call: the suite's laws, bound to the config of the derivation's model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.expressions import Function, Quantity, plain
from v3bench.suite.ledger.units import unit
from v3bench.suite.models import AnyConfig, load

if TYPE_CHECKING:
    from v3bench.suite.laws.speculation import Deployment


@cache
def config_of(model: str) -> AnyConfig:
    """The config of a preset. Raises BadInput."""
    return load(model)[1]


def parameters(part: str) -> Callable[..., float]:
    def law(config: AnyConfig) -> float:
        from v3bench.suite.laws import params

        return int(getattr(params.count(config), part))

    return law


def kv_bytes(storage: str) -> Callable[..., float]:
    def law(config: AnyConfig) -> float:
        from v3bench.suite.laws import kv

        found = kv.bytes_per_token(config, storage)
        if found is None:
            raise BadInput(f"{config.model_type} has no {storage} cache")
        return found

    return law


def forward_flops(**options: bool) -> Callable[..., float]:
    def law(config: AnyConfig, seq_len: float) -> float:
        from v3bench.suite.laws import flops

        return flops.forward(config, int(seq_len), **options)

    return law


def decode_flops(config: AnyConfig, context: float) -> float:
    from v3bench.suite.laws import flops

    return flops.decode(config, int(context))


def routing(name: str) -> Callable[..., float]:
    def law(config: AnyConfig) -> float:
        from v3bench.suite.laws import routing as law_of

        return float(getattr(law_of, name)(law_of.Routing.of(config)))

    return law


def mtp_flops(config: AnyConfig, seq_len: float) -> float:
    from v3bench.suite.laws import flops

    return flops.mtp(config, int(seq_len))


def experts_touched(config: AnyConfig, ep: float, batch: float, tokens: float) -> float:
    from v3bench.suite.laws import speculation

    return speculation.touched(mixture(config), deployment(ep, batch), int(tokens))


def moe_bytes(part: str) -> Callable[..., float]:
    """One MoE layer's weights of one part: attention, routed_experts, shared_experts, router."""

    def law(config: AnyConfig, ep: float, batch: float, tokens: float) -> float:
        from v3bench.suite.laws import speculation

        return speculation.layers(mixture(config), deployment(ep, batch), int(tokens), dense=0, moe=1)[part].nbytes

    return law


def step_bytes(*, dense: bool = False, drafting: bool = False) -> Callable[..., float]:
    """B of a step of so many tokens a request, or of its drafts; beyond a GPU's ridge what it could read meanwhile.

    Arguments: ep, batch, context, tokens or drafts, whether the head is split (0 or 1), and the ridges of FP8 and BF16
    in FLOP per byte where FLOPs count.
    """

    def law(config: AnyConfig, ep: float, batch: float, context: float, n: float, split: float, *ridge: float) -> float:
        from v3bench.suite.laws import speculation

        where = deployment(ep, batch, context, split)
        model = speculation.all_dense(mixture(config)) if dense else mixture(config)
        parts = (speculation.draft if drafting else speculation.step)(model, where, int(n))
        return speculation.cost(parts, speculation.Ridge(*ridge) if ridge else None)

    return law


def deployment(ep: float, batch: float, context: float = 0, split: float = 0) -> Deployment:
    from v3bench.suite.laws.speculation import Deployment

    return Deployment(ep=int(ep), batch=int(batch), context=int(context), split_head=bool(split))


def mixture(config: AnyConfig) -> Config:
    """The config of a model with experts. Raises BadInput."""
    if not isinstance(config, Config):
        raise BadInput("the model has no experts", right="a model of the deepseek_v3 family")
    return config


def numerics(name: str, *fixed: str) -> Callable[..., float]:
    def law(*numbers: float) -> float:
        from v3bench.suite.laws import numerics as law_of

        whole = [int(n) if float(n).is_integer() else n for n in numbers]
        return float(getattr(law_of, name)(*whole, *fixed))

    return law


def prime_power(q: float) -> float:
    from v3bench.suite.laws import topology

    return int(topology.is_prime_power(int(q)))


def unit_price(name: str) -> Callable[..., float]:
    def law(*numbers: float) -> float:
        from v3bench.suite.ledger import prices

        return float(getattr(prices, name)(*numbers))

    return law


LAWS: dict[str, tuple[Callable[..., float], str]] = {
    "params_total": (parameters("total"), "params"),
    "params_activated": (parameters("activated"), "params"),
    "params_without_embedding": (parameters("activated_without_input_embedding"), "params"),
    "params_mtp": (parameters("mtp"), "params"),
    "params_mtp_activated": (parameters("mtp_activated"), "params"),
    "kv_bytes": (kv_bytes("bf16"), "B"),
    "kv_bytes_fp8": (kv_bytes("fp8"), "B"),
    "kv_bytes_flashmla": (kv_bytes("fp8_flashmla"), "B"),
    "forward_flops_causal": (forward_flops(causal=True), "FLOP"),
    "forward_flops_full": (forward_flops(causal=False), "FLOP"),
    "forward_flops_no_router": (forward_flops(causal=True, router=False), "FLOP"),
    "decode_flops": (decode_flops, "FLOP"),
    "mtp_flops": (mtp_flops, "FLOP"),
    "groups_mean": (routing("mean_groups"), "1"),
    "groups_all": (routing("chance_of_all_groups"), "1"),
    "groups_within_limit": (routing("chance_within_limit"), "1"),
    "limited_groups_mean": (routing("limited_mean"), "1"),
    "limited_groups_error": (routing("limited_mean_error"), "1"),
    "experts_touched": (experts_touched, "1"),
    **{f"{part}_bytes": (moe_bytes(part), "B") for part in ("attention", "routed_experts", "shared_experts", "router")},
    "step_bytes": (step_bytes(), "B"),
    "draft_bytes": (step_bytes(drafting=True), "B"),
    "dense_step_bytes": (step_bytes(dense=True), "B"),
    "dense_draft_bytes": (step_bytes(dense=True, drafting=True), "B"),
}


FREE: dict[str, tuple[Callable[..., float], str]] = {
    "is_prime_power": (prime_power, "1"),
    "sum_error_uniform": (numerics("accumulation_error", "uniform"), "1"),
    "sum_error_normal": (numerics("accumulation_error", "normal"), "1"),
    "logfmt_steps": (numerics("logfmt_steps"), "1"),
    "logfmt_worst_error": (numerics("logfmt_worst_error"), "1"),
    "prices_fit": (unit_price("prices_fit"), "1"),
    "price_low": (unit_price("price_low"), "$"),
    "price_high": (unit_price("price_high"), "$"),
}


def bound(model: str) -> dict[str, Function]:
    """The laws as functions of an expression: those of a model bound to it, if there is one, and those of no model."""
    found = {name: free(*law) for name, law in FREE.items()}
    return found | {name: bind(model, *law) for name, law in LAWS.items()} if model else found


def free(law: Callable[..., float], unit_of_result: str) -> Function:
    return lambda *args: Quantity(law(*(plain(arg) for arg in args)), unit(unit_of_result)[1])


def bind(model: str, law: Callable[..., float], unit_of_result: str) -> Function:
    def function(*args: Any) -> Quantity:
        return Quantity(law(config_of(model), *(plain(arg) for arg in args)), unit(unit_of_result)[1])

    return function
