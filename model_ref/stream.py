"""A forward pass that reads one layer at a time: all windows of tokens go through it before the next is touched.

The states of all tokens are kept (the activations); of the weights no more than what is being worked on: a layer
without its routed experts, one expert, or a band of the embedding or the head, while the next are read. Each expert is
dequantised once. The arithmetic is that of ``load_pretrained`` and the model's own forward pass, up to the order of
sums. Read and checked are all tensors of the folder once, and the embedding is read once more for each MTP module; an
expert that no token is sent to is not dequantised.

    Pass      steps through the model; ``states`` and a number of steps are enough to go on later
    Outcome   what it found

N windows  T predicted positions in each  D hidden_size  W vocab_size
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn
from v3bench.model_ref.block import Block
from v3bench.model_ref.crew import Crew, one_thread
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.moe import MoE
from v3bench.model_ref.mtp import MTP
from v3bench.model_ref.norm import RMSNorm
from v3bench.model_ref.read_ahead import Reader
from v3bench.model_ref.stream_experts import Chosen, Experts, Scales
from v3bench.model_ref.stream_head import Scores
from v3bench.model_ref.stream_weights import EMBED, HEAD, NORM, Source, Weights

AHEAD = 1 << 30  # bytes that are read ahead at most, and half a layer where that is less
MOST = 8  # threads that hold the weights of an expert each
FEW = 512  # tokens below which threads that share a product only wait for each other
ROWS = {"cpu": 512, "cuda": 16384}  # tokens that one product takes at a time


@dataclass(frozen=True)
class Outcome:
    """Of all windows: the loss of every token, what the main head would say, and what each MTP module would draft."""

    loss: Tensor  # (N, T) float64, nats of token i + 1
    said: Tensor  # (N, T) int64: the likeliest token i + 1
    drafts: list[Tensor]  # of module k = 1, 2, ... (N, T - k) int64: its likeliest token i + k + 1
    draft_losses: list[Tensor]  # (N, T - k) float64


class Pass(AbstractContextManager["Pass"]):
    """ids (N, T+1) int64 through the model of a source. Use as a context manager; call ``step`` until ``finished``.

    ``done`` and ``states`` are of an earlier pass over the same that is gone on with. ``keep``: leave what was read in
    the page cache. Raises BadInput for tokens that the vocabulary has not, and for windows that are too short.
    """

    def __init__(
        self,
        source: Source,
        ids: Tensor,
        *,
        device: torch.device | str = "cpu",
        done: int = 0,
        states: Mapping[str, Tensor] | None = None,
        ahead: int | None = None,
        keep: bool = True,
    ) -> None:
        check(ids, source)
        self.source, self.model, self.ids, self.done = source, source.model, ids, done
        self.device = torch.device(device)
        self.crew = Crew(min(torch.get_num_threads(), MOST) if self.device.type == "cpu" else 1)
        self.weights = Weights(source, self.device, self.crew)
        self.rows = ROWS[self.device.type]
        told = {name: state.to(self.device) for name, state in (states or {}).items()}
        self.finals = [told[name] for name in sorted(told) if name != "h"]
        self.h = told.get("h")
        self.scores: list[Scores] = []
        units = [unit for step in source.steps[done:] for unit in source.units(step)]
        room = min(source.largest_layer // 2, AHEAD) if ahead is None else ahead
        self.reader = Reader(units, ahead=room, pinned=self.device.type == "cuda", keep=keep)
        self.experts = Experts(self.weights, self.reader, self.rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.crew.__exit__(kind, error, trace)
        self.reader.__exit__(kind, error, trace)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.done == len(self.source.steps)

    def states(self) -> dict[str, Tensor]:
        """What the next steps start from: ``h``, and ``final.k`` behind the final norm of depth k."""
        finals = {f"final.{k}": state for k, state in enumerate(self.finals)}
        return finals if self.h is None else {"h": self.h, **finals}

    @torch.no_grad()
    def step(self) -> None:
        """The next step. Raises BadInput where what is read cannot be used."""
        with one_thread() if self.ids.numel() < FEW else nullcontext():
            self.do(self.source.steps[self.done])
        self.weights.settle()
        self.done += 1

    def do(self, name: str) -> None:
        """One step."""
        if name == EMBED:
            self.h = self.embed(self.ids[:, :-1], look=True)
        elif name == NORM:
            assert self.h is not None
            self.load(NORM, self.model.norm)
            self.finals, self.h = [self.normed(self.model.norm, self.h)], None
        elif name == HEAD:
            self.head()
        elif name.startswith("mtp."):
            self.finals.append(self.further(name))
        else:
            assert self.h is not None
            layer = self.model.get_submodule(name)
            self.block(layer, self.load(name, layer), self.h, name)
            layer.to_empty(device="meta")

    def outcome(self) -> Outcome:
        """What was found, once all steps are done."""
        main, *further = self.scores
        losses, drafts = [one.loss for one in further], [one.likeliest for one in further]
        return Outcome(main.loss, main.likeliest, drafts, losses)

    def load(self, name: str, module: nn.Module) -> Scales:
        """Give a layer its weights but the experts'; the scales of those."""
        parts = (part for expert in self.source.experts.get(name, ()) for _, _, part in expert.places)
        with next(self.reader) as held:
            module.load_state_dict(self.weights.rest(name, held), strict=False, assign=True)
            return {part: self.weights.scale(part, held) for part in parts if part.scales is not None}

    def embed(self, ids: Tensor, *, look: bool) -> Tensor:
        """ids (N, S) -> (N, S, D); with ``look`` all of the table is checked, and its copies, as loading does."""
        flat = ids.flatten()
        out = torch.empty(len(flat), self.source.config.hidden_size, dtype=self.weights.dtype, device=self.device)
        for first, last, part, copies in self.source.bands(EMBED):
            with next(self.reader) as held:
                values = self.weights.values(part, held)
                if look:
                    self.weights.compare(part, copies, held)
                    self.weights.finite(values.to(self.weights.dtype), part.stored)
                where = ((flat >= first) & (flat < last)).nonzero().flatten()
                rows = (flat[where] - first).to(self.device)
                out[where.to(self.device)] = values[rows].to(out.dtype)
        return out.view(*ids.shape, -1)

    def further(self, name: str) -> Tensor:
        """An MTP module over the states of the depth before: (N, T-k, D)."""
        module = self.model.get_submodule(name)
        assert isinstance(module, MTP)
        k, T = len(self.finals), self.ids.shape[1] - 1
        e = self.embed(self.ids[:, k:T], look=False)
        scales = self.load(name, module)
        before = self.finals[-1][:, : T - k]
        for some, h in zip(self.windows(e), self.windows(before), strict=True):
            some.copy_(module.joined(h, some))
        self.block(module.block, scales, e, name)
        e = self.normed(module.norm, e)
        module.to_empty(device="meta")
        return e

    def block(self, block: nn.Module, scales: Scales, h: Tensor, name: str) -> None:
        """All windows h (N, S, D) through one block, in place."""
        assert isinstance(block, Block)
        turns = self.model.turns(h[:1], None)
        for some in self.windows(h):
            if isinstance(block.ffn, MoE):
                some += block.attn(some, block.attn_norm, turns)
            else:
                some.copy_(block(some, turns))
        if isinstance(block.ffn, MoE):
            self.moe(block.ffn, block.ffn_norm, scales, h.flatten(0, -2), name)

    def moe(self, ffn: MoE, norm: RMSNorm, scales: Scales, h: Tensor, name: str) -> None:
        """The DeepSeekMoE of a block, expert after expert over all tokens, added to h (NS, D)."""
        x = self.normed(norm, h)
        routed = [ffn.gate(some) for some in x.split(self.rows)]
        gates, chosen = torch.cat([one.gates for one in routed]), torch.cat([one.chosen for one in routed])
        wide = torch.promote_types(x.dtype, torch.float32)
        y = torch.zeros(x.shape, dtype=wide, device=x.device)  # of K terms, rounded once, as the model's own sum
        routing = Chosen.of(gates, chosen, ffn.gate.weight.shape[0])
        self.experts(x, routing, self.source.experts[name], scales, y)
        for into, sums, some in zip(h.split(self.rows), y.split(self.rows), x.split(self.rows), strict=True):
            out = sums.to(x.dtype)
            into += out if ffn.shared is None else out + ffn.shared(some)

    def head(self) -> None:
        """What the head says behind the main model and behind every module."""
        T = self.ids.shape[1] - 1
        self.scores = [
            Scores(h, self.ids[:, k + 1 : T + 1], self.model.ops, self.rows) for k, h in enumerate(self.finals)
        ]
        for first, _, part, copies in self.source.bands(HEAD):
            with next(self.reader) as held:
                w = self.weights.values(part, held).to(self.weights.dtype)
                self.weights.compare(part, copies, held)
                self.weights.finite(w, part.stored)
                for one in self.scores:
                    one.add(first, w)

    def windows(self, h: Tensor) -> tuple[Tensor, ...]:
        """h (N, S, D) in batches of whole windows, as views."""
        parts: tuple[Tensor, ...] = h.split(max(1, self.rows // h.shape[1]))
        return parts

    def normed(self, norm: RMSNorm, h: Tensor) -> Tensor:
        """The normalised states, in new memory."""
        out = torch.empty_like(h)
        for some, into in zip(h.flatten(0, -2).split(self.rows), out.flatten(0, -2).split(self.rows), strict=True):
            into.copy_(norm(some))
        return out


def check(ids: Tensor, source: Source) -> None:
    """Raise BadInput for what cannot be windows of this model's text."""
    least = 2 + len(source.model.mtp)
    if ids.ndim != 2 or not len(ids) or ids.shape[1] < least:
        right = f"windows (N, S) of at least {least} tokens"
        raise BadInput(f"tokens of shape {tuple(ids.shape)}", where="stream", right=right)
    low, high = (int(one) for one in ids.aminmax())
    if low < 0 or high >= source.config.vocab_size:
        what = f"token {low if low < 0 else high}"
        raise BadInput(what, where="stream", right=f"0 to {source.config.vocab_size - 1}")
