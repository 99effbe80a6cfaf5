"""How long a forward pass takes that reads a released model layer by layer: basis "modelled". No torch here.

Disk, link and processor work side by side, a layer apart: the processor works on one while the next is read. Each step
takes as long as the slowest of them, and the first has to be read before anything can begin. Assumed besides: every
expert is read and dequantised once, whatever it is chosen for; reading costs the processor nothing; products run at one
rate whatever their shape. A measurement may refute each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from v3bench.model_ref.config import Config
from v3bench.suite.laws import flops, params

CODED = frozenset({"attention", "dense_ffn", "routed_experts", "shared_experts"})  # FP8 in the release
CODE = 1 + 4 / (128 * 128)  # bytes of a value, its share of a block's float32 scale in
WIDTH = {"router_bias": 4}  # bytes of what is neither FP8 nor bfloat16


@dataclass(frozen=True)
class Rates:
    """What a machine reaches, SI."""

    disk: float  # B/s, reading in order
    link: float  # B/s from main memory to where it is computed; math.inf where that is the same
    products: float  # FLOP/s
    dequantised: float  # values/s


@dataclass(frozen=True)
class Step:
    """One step's bytes, FLOPs, and values to dequantise."""

    bytes: float
    flops: float
    coded: float


@dataclass(frozen=True)
class Estimate:
    """Seconds in all, and of each part if it ran alone."""

    seconds: float
    bytes: float
    disk: float
    link: float
    products: float
    dequantised: float

    @property
    def limit(self) -> str:
        """Which part takes longest."""
        alone = {"disk": self.disk, "link": self.link, "processor": self.products + self.dequantised}
        return max(alone, key=lambda name: alone[name])


# One H200 behind PCIe 5.0 x16 and a disk of 5 GB/s: assumptions, each named. Products: 40 % of the datasheet's dense
# BF16, less than a 8192^3 product reaches (hardware.toml), as an expert's have some thousand rows. Dequantised: 1 byte
# read and 2 written at the bandwidth that a copy reaches. Link: 80 % of 64 GB/s.
H200 = Rates(disk=5e9, link=0.8 * 64e9, products=0.4 * 989e12, dequantised=4.3e12 / 3)


def estimate(config: Config, windows: int, length: int, rates: Rates, *, copies: bool = True) -> Estimate:
    """``windows`` of ``length`` predicted tokens each; ``copies``: MTP layers store embedding and head again."""
    plan = steps(config, windows, length, copies=copies)
    reading = [max(step.bytes / rates.disk, step.bytes / rates.link) for step in plan]
    working = [step.flops / rates.products + step.coded / rates.dequantised for step in plan]
    seconds = reading[0] + sum(map(max, zip([*reading[1:], 0.0], working, strict=True)))
    total, products, coded = (sum(getattr(step, of) for step in plan) for of in ("bytes", "flops", "coded"))
    return Estimate(
        seconds, total, total / rates.disk, total / rates.link, products / rates.products, coded / rates.dequantised
    )


def steps(config: Config, windows: int, length: int, *, copies: bool = True) -> list[Step]:
    """The steps of model_ref/stream.py: embedding, layers, MTP modules, head; what is read and what is computed."""
    counted, depth = params.count(config), config.num_nextn_predict_layers
    table = 2.0 * config.vocab_size * config.hidden_size  # bytes
    repeated = depth * table if copies else 0.0
    tied = config.tie_word_embeddings
    scored = flops.pairs(length, causal=True) * flops.expanded_width(config)
    head = 2.0 * length * config.vocab_size * config.hidden_size

    def layer(moe: bool) -> Step:
        stored = params.layer(config, moe=moe)
        active = {**stored, "routed_experts": config.num_experts_per_tok * params.expert(config) if moe else 0}
        multiplied = sum(active.get(part, 0) for part in (*CODED, "router"))
        return Step(size(stored), windows * (2.0 * length * multiplied + 2.0 * scored), coded(stored))

    plan = [Step(table + (repeated * (2 if tied else 1)), 0.0, 0.0)]
    plan += [layer(i >= config.first_k_dense_replace) for i in range(config.num_hidden_layers)]
    for _ in range(depth):
        own, joined = layer(True), counted.mtp_parts["mtp_projection"] / depth
        work = own.flops + windows * 2.0 * length * joined
        plan.append(Step(own.bytes + 2 * joined + table, work, own.coded))
    plan.append(Step(table + (0.0 if tied else repeated), windows * head * (1 + depth), 0.0))
    return plan


def size(stored: Mapping[str, int]) -> float:
    """Bytes of a layer's parts as released."""
    return sum(n * (CODE if part in CODED else WIDTH.get(part, 2)) for part, n in stored.items())


def coded(stored: Mapping[str, int]) -> float:
    """Values of a layer's parts that are FP8."""
    return sum(stored.get(part, 0) for part in CODED)
