"""The routed experts of one layer over all tokens, expert after expert, while the next are read.

On a CPU a thread works on each of several. What they make is added in the order of the file: a pass gives the same bits
again.

    Chosen    which (token, choice) pairs go to which expert
    Experts   the loop

T tokens  D hidden_size  F moe_intermediate_size  E experts  K choices of a token
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from v3bench.kernels.block_quant import product
from v3bench.kernels.swiglu import swiglu
from v3bench.model_ref.checkpoint_parts import Part
from v3bench.model_ref.read_ahead import Loaded, Reader
from v3bench.model_ref.stream_weights import Expert, Held, Weights

Scales = Mapping[Part, Tensor]  # of a layer's experts, where they are FP8
Made = list[tuple[Tensor, Tensor]]  # tokens and what the expert adds to them


@dataclass(frozen=True)
class Chosen:
    """The routing of T tokens, by expert."""

    gates: Tensor  # (TK)
    pairs: Tensor  # (TK), those of each expert side by side
    ends: list[int]  # of each expert's
    K: int

    @classmethod
    def of(cls, gates: Tensor, chosen: Tensor, E: int) -> Chosen:
        """gates and chosen (T, K); the one place where the host waits for what a layer decided."""
        ordered, pairs = chosen.flatten().sort(stable=True)
        ends = torch.searchsorted(ordered, torch.arange(E, device=chosen.device), right=True)
        return cls(gates.flatten(), pairs, ends.tolist(), chosen.shape[1])

    def rows(self, e: int) -> Tensor:
        """The pairs of one expert."""
        return self.pairs[self.ends[e - 1] if e else 0 : self.ends[e]]


class Experts:
    """Call with the tokens of a layer."""

    def __init__(self, weights: Weights, reader: Reader, rows: int) -> None:
        self.weights, self.reader, self.rows = weights, reader, rows
        self.own = threading.local()  # each thread's memory for the weights of an expert

    def __call__(self, x: Tensor, chosen: Chosen, experts: Sequence[Expert], scales: Scales, y: Tensor) -> None:
        """Add to y (T, D) what each expert makes of its tokens among x (T, D). Raises BadInput."""

        def work(item: tuple[Expert, Loaded]) -> Made:
            return self.made(x, chosen, item[0], scales, item[1])

        for made in self.weights.crew.map(work, ((expert, next(self.reader)) for expert in experts)):
            for tokens, out in made:
                y.index_add_(0, tokens, out.to(y.dtype))

    def made(self, x: Tensor, chosen: Chosen, expert: Expert, scales: Scales, loaded: Loaded) -> Made:
        """One expert's part; one that nobody chose is checked and let go. Raises BadInput."""
        with loaded as held:
            rows = chosen.rows(expert.number)
            if not len(rows):
                for _, _, part in expert.places:
                    self.weights.look(part, held, scales.get(part))
                return []
            in_fp8 = all(part in scales for _, _, part in expert.places)
            if in_fp8 and x.device.type == "cpu" and x.dtype == torch.float32:
                return self.from_codes(x, chosen, expert, scales, held)
            w = self.memory(x)
            for key, start, part in expert.places:
                place = w[key][0].narrow(0, start, part.values.shape[0])
                self.weights.put(place, part, held, scales.get(part))
        made = []
        for tokens, gates in self.split(chosen, rows):
            first = torch.zeros_like(tokens)[:, None]  # the one expert there is
            made.append((tokens, self.weights.ops.experts(x[tokens], gates, first, w["w_gate_up"], w["w_down"])))
        return made

    def from_codes(self, x: Tensor, chosen: Chosen, expert: Expert, scales: Scales, held: Held) -> Made:
        """The same on a CPU from FP8, whose cache then need not hold what is dequantised, only a band of it."""
        D, F = self.weights.config.hidden_size, self.weights.config.moe_intermediate_size
        for _, _, part in expert.places:
            self.weights.finite_codes(held[part.values], scales[part], x.dtype, part.stored)
        made = []
        for tokens, gates in self.split(chosen, chosen.rows(expert.number)):
            width = {"w_gate_up": 2 * F, "w_down": D}
            out = {key: x.new_empty(len(tokens), size) for key, size in width.items()}
            read = {"w_gate_up": x[tokens]}
            for key, start, part in expert.places:
                if key == "w_down":
                    read[key] = swiglu(out["w_gate_up"]) * gates
                into = out[key][:, start : start + part.values.shape[0]]
                product(read[key], held[part.values], scales[part], into, self.weights.block)
            made.append((tokens, out["w_down"]))
        return made

    def split(self, chosen: Chosen, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(tokens, gates (n, 1)) of the pairs, some at a time."""
        for some in rows.split(self.rows):
            yield some // chosen.K, chosen.gates[some][:, None]

    def memory(self, x: Tensor) -> dict[str, Tensor]:
        """This thread's w_gate_up (1, 2F, D) and w_down (1, D, F)."""
        if not hasattr(self.own, "w"):
            D, F = self.weights.config.hidden_size, self.weights.config.moe_intermediate_size
            self.own.w = {"w_gate_up": x.new_empty(1, 2 * F, D), "w_down": x.new_empty(1, D, F)}
        w: dict[str, Tensor] = self.own.w
        return w
