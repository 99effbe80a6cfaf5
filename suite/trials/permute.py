"""Trials of dispatch and combine (kernels/order.py, kernels/permute.py), among DeepSeek-V3's 256 experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from v3bench.kernels import order, permute, quantize
from v3bench.kernels.order import Order
from v3bench.suite.meter.closeness import rounding_error
from v3bench.suite.trials.trial import Inputs, Rival, Shape, Trial

EXPERTS = 256


def choice(T: int, K: int, device: str) -> Tensor:
    """(T, K) int64: K different experts for each token."""
    return torch.rand(T, EXPERTS, device=device).topk(K).indices


def tokens(shape: Shape, device: str) -> Inputs:
    """Quantised rows with what routing chose for them."""
    x = torch.randn(shape["T"], shape["D"], device=device).bfloat16()
    codes, scales = quantize.reference_tiles(x)
    return {"codes": codes, "scales": scales, "chosen": choice(shape["T"], shape["K"], device), "experts": EXPERTS}


def rows(shape: Shape, device: str) -> Inputs:
    """What the experts made of the rows, and the gates."""
    T, K, D = shape["T"], shape["K"], shape["D"]
    made = order.reference(choice(T, K, "cpu"), EXPERTS)
    y, gates = torch.randn(T * K, D, device=device).bfloat16(), torch.rand(T, K, device=device) / K
    return {"y": y, "gates": gates} | {name: part.to(device) for name, part in vars(made).items()}


def ours_permute(codes: Tensor, scales: Tensor, chosen: Tensor, experts: int, config: Any = None) -> Any:
    """The order and the copies: (rows, their scales, offsets)."""
    made = order.order(chosen, experts)
    return *permute.permute(codes, made, scales, config=config), made.offsets


def oracle_permute(codes: Tensor, scales: Tensor, chosen: Tensor, experts: int) -> Any:
    """The definition; nothing is computed, so there is nothing for float64 to do better."""
    made = order.reference(chosen, experts)
    return *permute.reference_permute(codes, made, scales), made.offsets


def torch_permute(codes: Tensor, scales: Tensor, chosen: Tensor, experts: int) -> Any:
    """As one writes it in torch: a stable sort, and rows selected as words."""
    ordered, pairs = chosen.flatten().sort(stable=True)
    offsets = torch.searchsorted(ordered, torch.arange(experts, device=chosen.device), right=True, out_int32=True)
    source = pairs // chosen.shape[1]
    return codes.view(torch.int32)[source].view(codes.dtype), scales[source], offsets


def exact(got: Any, want: Any, inputs: Inputs) -> float:
    """0 where every byte is a copy of the right one, else inf."""
    same = all(torch.equal(a.float(), b.float()) for a, b in zip(got, want, strict=True))
    return 0.0 if same else float("inf")


def ours_unpermute(y: Tensor, gates: Tensor, config: Any = None, **made: Tensor) -> Tensor:
    """The launcher, its Order from the parts."""
    return permute.unpermute(y, Order(**made), gates, config=config)


def oracle_unpermute(y: Tensor, gates: Tensor, **made: Tensor) -> Tensor:
    """The definition in float64."""
    return permute.reference_unpermute(y.double(), Order(**made), gates.double())


def torch_unpermute(y: Tensor, gates: Tensor, rows: Tensor, **made: Tensor) -> Tensor:
    """Rows selected, weighted, summed; Inductor fuses all of it."""
    return (y[rows.long()].float() * gates[..., None]).sum(1).to(y.dtype)


def index_add(y: Tensor, gates: Tensor, rows: Tensor, **made: Tensor) -> Tensor:
    """Every row, weighted, added to its token's by an atomic addition."""
    spread = y * gates.flatten()[made["pairs"].long()].to(y.dtype)[:, None]
    return y.new_zeros(len(rows), y.shape[1]).index_add_(0, made["tokens"], spread)


def rounded_once(got: Tensor, want: Tensor, inputs: Inputs) -> float:
    """The sum of K products is held in float32 and rounded once, to y's dtype."""
    return rounding_error(got, want, inputs["y"].dtype)


def compiled(function: Callable[..., Any]) -> Callable[[Inputs], Callable[[], Any]]:
    """torch.compile of the fast form in torch."""

    def build(inputs: Inputs) -> Callable[[], Any]:
        made = torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False)
        return lambda: made(**inputs)

    return build


ORDER = "offsets int32 (E), rows int32 (T, K), pairs and tokens int32 (T K): kernels/order.py's Order"
TRIALS = {
    "permute": Trial(
        op="permute",
        calling="f(codes, scales, chosen, experts): codes (T, D) float8_e4m3fn, scales (T, D/128) float32, "
        "chosen (T, K) int64, their number -> rows sorted by expert and within it by token (T K, D), "
        "their scales (T K, D/128), offsets int32 (experts): the end of each expert's rows",
        inputs=tokens,
        ours=ours_permute,
        oracle=oracle_permute,
        error=exact,
        rivals={"compiled": Rival(compiled(torch_permute), "torch.compile of a stable sort and index_select", exact)},
        small=({"T": 9, "K": 3, "D": 256}, {"T": 1, "K": 8, "D": 144}, {"T": 130, "K": 1, "D": 16}),
        small_config={"BLOCK": 64, "num_warps": 4},
        precision="fp8",
    ),
    "unpermute": Trial(
        op="unpermute",
        calling=f"f(y, gates, offsets, rows, pairs, tokens): y (T K, D) bfloat16, gates (T, K) float32, {ORDER} "
        "-> (T, D) bfloat16, each token's rows weighted and summed",
        inputs=rows,
        ours=ours_unpermute,
        oracle=oracle_unpermute,
        error=rounded_once,
        rivals={
            "compiled": Rival(compiled(torch_unpermute), "torch.compile of index_select and a sum", rounded_once),
            "index_add": Rival(
                compiled(index_add), "torch.compile of index_add_ in bfloat16: rounds K times, in no fixed order"
            ),
        },
        small=({"T": 9, "K": 3, "D": 256}, {"T": 1, "K": 8, "D": 136}, {"T": 33, "K": 1, "D": 8}),
        small_config={"BLOCK": 128, "num_warps": 4},
    ),
}
