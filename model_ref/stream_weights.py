"""A folder's tensors sorted into the steps of a forward pass, and how one becomes weights on a device.

Source     a folder, judged by its headers: its steps, and what each of them reads
Expert     one routed expert of a layer
Weights    from what was read to weights, checked finite as ``load_pretrained`` does
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from v3bench.kernels.block_quant import dequantize_into, has_nan
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref.checkpoint import DEEPSEEK, released_order
from v3bench.model_ref.checkpoint_files import FP8, Files, Stored, finite
from v3bench.model_ref.checkpoint_parts import Part, Parts, Slice
from v3bench.model_ref.checkpoint_table import Piece, has_mtp, judged
from v3bench.model_ref.config import Config
from v3bench.model_ref.crew import Crew
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model

EXPERTS = "ffn.experts."
BAND = 1 << 23  # values of the embedding or the head that are worked on at a time
EMBED, NORM, HEAD = "embed", "norm", "head"

Held = Mapping[Slice, Tensor]  # what was read, as stored


@dataclass(frozen=True)
class Expert:
    """Where the parts of one expert go: (our key, its first row there, part)."""

    number: int
    places: list[tuple[str, int, Part]] = field(default_factory=list)

    @property
    def begin(self) -> tuple[Path, int]:
        """Where it lies."""
        return min((part.values.file, part.values.begin) for _, _, part in self.places)


class Source(AbstractContextManager["Source"]):
    """A DeepSeek folder, opened. Raises BadInput, as ``load_pretrained`` does, before any value is read.

    ``steps``: embed, layers.0, ..., norm, mtp.0, ..., head.
    """

    def __init__(self, folder: str | Path, dtype: torch.dtype = torch.float32, ops: Ops = TORCH) -> None:
        self.config = Config.from_file(Path(folder) / "config.json")
        self.files = Files(folder)
        try:
            mtp = has_mtp(self.config, self.files)
            self.model = Model(self.config, ops=ops, device="meta", dtype=dtype, mtp=mtp)
            pieces, self.copies = judged(self.model, self.config, self.files, DEEPSEEK)
            self.parts = Parts(self.files, self.config)
        except BaseException:
            self.files.__exit__(None, None, None)
            raise
        self.pieces: dict[str, list[Piece]] = defaultdict(list)
        self.experts: dict[str, list[Expert]] = {}
        for piece in pieces:
            words = piece.ours.split(".")
            self.pieces[".".join(words[:2]) if words[0] in ("layers", "mtp") else words[0]].append(piece)
        layers = [f"layers.{i}" for i in range(self.config.num_hidden_layers)]
        modules = [f"mtp.{k}" for k in range(len(self.model.mtp))]
        self.steps = (EMBED, *layers, NORM, *modules, HEAD)
        for step in (*layers, *modules):
            self.experts[step] = self.experts_of(step)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.files.__exit__(kind, error, trace)

    def experts_of(self, step: str) -> list[Expert]:
        """The routed experts of a layer, in the order of the file."""
        found: dict[int, Expert] = {}
        for piece in self.pieces[step]:
            if EXPERTS not in piece.ours:
                continue
            key = piece.ours.rpartition(".")[2]
            if piece.expert is not None:
                one = found.setdefault(piece.expert, Expert(piece.expert))
                one.places.append((key, piece.start, self.parts.whole(piece.released)))
                continue
            for e in range(piece.shape[0]):
                one = found.setdefault(e, Expert(e))
                one.places.append((key, 0, self.parts.expert(piece.released, e)))
        for one in found.values():
            one.places.sort(key=lambda place: place[0] == "w_down")  # which reads what the others make
        return sorted(found.values(), key=lambda one: one.begin)

    def rest(self, step: str) -> list[tuple[Piece, Part]]:
        """A step's tensors but the experts'."""
        return [(piece, self.parts.whole(piece.released)) for piece in self.pieces[step] if EXPERTS not in piece.ours]

    def bands(self, step: str) -> list[tuple[int, int, Part, list[Part]]]:
        """The embedding, or the head, in bands: (first row, one past the last, part, the same rows of its copies)."""
        tied = step == HEAD and self.config.tie_word_embeddings
        (piece,) = self.pieces[EMBED if tied else step]
        copies = [] if tied else [copy for copy, original in self.copies.items() if original == piece.released]
        others = [self.parts.bands(copy, BAND) for copy in copies]
        own = self.parts.bands(piece.released, BAND)
        return [(*band, [other[n][2] for other in others]) for n, band in enumerate(own)]

    def units(self, step: str) -> Iterator[list[Slice]]:
        """What a step reads, unit by unit, in its order."""
        if step in (EMBED, HEAD):
            yield from ([*part.slices, *(s for copy in copies for s in copy.slices)]
                        for *_, part, copies in self.bands(step))  # fmt: skip
            return
        if step.startswith("mtp."):
            yield from (list(part.slices) for *_, part, _ in self.bands(EMBED))
        scales = [part.scales for one in self.experts.get(step, ()) for _, _, part in one.places if part.scales]
        rest = [one for _, part in self.rest(step) for one in part.slices]
        yield sorted((*rest, *scales), key=lambda one: (one.file, one.begin))
        for expert in self.experts.get(step, ()):
            yield sorted((part.values for _, _, part in expert.places), key=lambda one: (one.file, one.begin))

    def bytes(self, step: str) -> int:
        """What a step reads."""
        return sum(one.size for unit in self.units(step) for one in unit)

    @property
    def largest_layer(self) -> int:
        """Bytes of the largest layer as stored, MTP's embedding not counted."""
        embedding = self.bytes(EMBED)
        sizes = [self.bytes(step) - (embedding if step.startswith("mtp.") else 0) for step in self.experts]
        return max(sizes)


class Weights:
    """From what was read to weights in ``dtype`` on ``device``."""

    def __init__(self, source: Source, device: torch.device, crew: Crew) -> None:
        self.source, self.config, self.device, self.crew = source, source.config, device, crew
        self.dtype: torch.dtype = source.model.embed.weight.dtype
        self.ops = source.model.ops
        # Extremes of weights on a GPU, which are not waited for one by one.
        self.pending: list[tuple[Stored, Tensor]] = []

    def moved(self, raw: Tensor) -> Tensor:
        """As stored, on the device; the host goes on where the memory is pinned."""
        return raw.to(self.device, non_blocking=True)

    def scale(self, part: Part, held: Held) -> Tensor:
        """A part's block scales on the device, checked, in memory of their own."""
        assert part.scales is not None
        stored = self.source.files.stored[part.stored.name + "_scale_inv"]
        scale = held[part.scales].to(self.device, non_blocking=True, copy=True)
        self.finite(scale, stored)
        return scale.float()

    def put(self, place: Tensor, part: Part, held: Held, scale: Tensor | None) -> None:
        """A part's values into their place."""
        raw = self.moved(held[part.values])
        if part.stored.dtype != FP8:
            place.copy_(raw)
        elif place.device.type == "cpu" and place.dtype == torch.float32:
            assert scale is not None
            self.finite_codes(raw, scale, place.dtype, part.stored)
            dequantize_into(place, raw, scale, self.block)
            return
        else:
            place.copy_(self.ops.dequantize(raw, scale, place.dtype, self.block))
        self.finite(place, part.stored)

    def look(self, part: Part, held: Held, scale: Tensor | None) -> None:
        """Raise BadInput where a part that nobody needs would have been refused."""
        if scale is None:
            finite(held[part.values].to(self.dtype), part.stored)
        else:
            self.finite_codes(held[part.values], scale.cpu(), self.dtype, part.stored)

    def values(self, part: Part, held: Held) -> Tensor:
        """A part's values; float32 from FP8, else as stored, where they were read."""
        raw = self.moved(held[part.values])
        if part.scales is None:
            return raw
        return self.ops.dequantize(raw, self.scale(part, held), torch.float32, self.block)

    def rest(self, step: str, held: Held) -> dict[str, Tensor]:
        """A step's tensors but the experts', by our names below the step."""
        source, made = self.source, {}
        meta = source.model.state_dict()
        for name in {piece.ours: None for piece, _ in source.rest(step)}:
            made[name] = torch.empty(meta[name].shape, dtype=meta[name].dtype, device=self.device)

        def fill(one: tuple[Piece, Part]) -> None:
            piece, part = one
            place = piece.view(made)
            place.copy_(released_order(piece.key, self.values(part, held), source.config))
            self.finite(place, part.stored)

        for _ in self.crew.map(fill, source.rest(step)):
            pass
        return {name.removeprefix(step + "."): tensor for name, tensor in made.items()}

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block of scales."""
        assert self.source.config.quantization_block is not None
        return self.source.config.quantization_block

    def compare(self, part: Part, copies: list[Part], held: Held) -> None:
        """Raise BadInput where a copy differs from what it should repeat."""
        for copy in copies:
            pair = held[copy.values], held[part.values]
            if pair[0].dtype != pair[1].dtype or part.stored.dtype == FP8:
                pair = pair[0].float(), pair[1].float()
            if not torch.equal(*pair):
                what = f"differs from {part.stored.name!r}, which it should repeat"
                raise BadInput(what, where=copy.stored.where, right="equal tensors: the model shares them")

    def finite(self, values: Tensor, stored: Stored) -> None:
        """Raise BadInput where a value is not finite: at once on a CPU, by ``settle`` on a GPU."""
        if values.device.type == "cpu":
            finite(values, stored)
        else:
            self.pending.append((stored, torch.stack(values.aminmax()).float()))

    def finite_codes(self, codes: Tensor, scale: Tensor, dtype: torch.dtype, stored: Stored) -> None:
        """The same, from FP8 codes on a CPU: a quarter of the bytes."""
        largest = scale.abs().max() * torch.finfo(codes.dtype).max
        if has_nan(codes) or not bool(largest.to(dtype).isfinite()):
            finite(self.ops.dequantize(codes, scale, torch.float32, self.block).to(dtype), stored)

    def settle(self) -> None:
        """Look at what was put off. Raises BadInput."""
        if not self.pending:
            return
        extremes = torch.stack([pair for _, pair in self.pending]).cpu()
        for (stored, _), pair in zip(self.pending, extremes, strict=True):
            finite(pair, stored)
        self.pending.clear()
