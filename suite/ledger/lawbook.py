"""The functions a derivation may call: the suite's laws, bound to the config of the derivation's model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.expressions import Function, Quantity, plain
from v3bench.suite.ledger.units import unit
from v3bench.suite.models import AnyConfig, load


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


LAWS: dict[str, tuple[Callable[..., float], str]] = {
    "params_total": (parameters("total"), "params"),
    "params_activated": (parameters("activated"), "params"),
    "params_without_embedding": (parameters("activated_without_input_embedding"), "params"),
    "params_mtp": (parameters("mtp"), "params"),
    "kv_bytes": (kv_bytes("bf16"), "B"),
    "kv_bytes_fp8": (kv_bytes("fp8"), "B"),
    "kv_bytes_flashmla": (kv_bytes("fp8_flashmla"), "B"),
    "forward_flops_causal": (forward_flops(causal=True), "FLOP"),
    "forward_flops_full": (forward_flops(causal=False), "FLOP"),
    "forward_flops_no_router": (forward_flops(causal=True, router=False), "FLOP"),
    "decode_flops": (decode_flops, "FLOP"),
    "groups_mean": (routing("mean_groups"), "1"),
    "groups_all": (routing("chance_of_all_groups"), "1"),
    "groups_within_limit": (routing("chance_within_limit"), "1"),
    "limited_groups_mean": (routing("limited_mean"), "1"),
    "limited_groups_error": (routing("limited_mean_error"), "1"),
}


def bound(model: str) -> dict[str, Function]:
    """The laws as functions of an expression, bound to a model; none without a model."""
    if not model:
        return {}
    return {name: bind(model, *law) for name, law in LAWS.items()}


def bind(model: str, law: Callable[..., float], unit_of_result: str) -> Function:
    def function(*args: Any) -> Quantity:
        return Quantity(law(config_of(model), *(plain(arg) for arg in args)), unit(unit_of_result)[1])

    return function
