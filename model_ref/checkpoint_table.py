"""Filling a model from a checkpoint by a name table.

A table says, for each of our parameters, which released tensors make it up: joined along the rows, or one
per expert and stacked. Names, shapes, dtypes and scales of the whole folder are checked before the first
value is read; then tensor after tensor goes into its place. Nothing missing, nothing left over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from v3bench.kernels.ops import Ops
from v3bench.model_ref.checkpoint_files import FP8, READABLE, Files, Stored, finite
from v3bench.model_ref.config import ModelConfig
from v3bench.model_ref.errors import BadInput

# Computed here, stored by some savers: no weights.
IGNORED = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")
SCALE = "_scale_inv"  # the suffix of a weight's block scales
ANY_SCALE = ("F32", "BF16", "F16")

M = TypeVar("M", bound=nn.Module)
C = TypeVar("C", bound=ModelConfig)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Our names -> released names. ``{e}`` runs over the experts; several names are joined along the rows."""

    trunk: Mapping[str, Sequence[str]]
    layer: Mapping[str, Sequence[str]]  # below layers.{i}. and model.layers.{i}.
    stacked: Mapping[str, str] = field(default_factory=dict)  # a layer's experts stored as one tensor
    mtp: Mapping[str, Sequence[str]] = field(default_factory=dict)  # below mtp.{k}. and model.layers.{n + k}.
    copies: Mapping[str, str] = field(default_factory=dict)  # below model.layers.{n + k}.: ours it repeats
    rows: Mapping[str, Callable[[Any], Sequence[int]]] = field(default_factory=dict)  # of joined parts; else equal


@dataclass(frozen=True)
class Piece:
    """One released tensor and its place: rows of one of our tensors, or of one expert's part of it."""

    released: str
    ours: str
    key: str  # ours below its layer
    shape: tuple[int, ...]
    expert: int | None = None
    start: int = 0

    def view(self, state: Mapping[str, Tensor]) -> Tensor:
        """The place, as a view to copy into."""
        target = state[self.ours]
        if self.expert is not None:
            target = target[self.expert]
        return target.narrow(0, self.start, self.shape[0])


def fill(
    model: M,
    config: C,
    files: Files,
    table: Table,
    ops: Ops,
    device: torch.device | str,
    arrange: Callable[[str, Tensor, C], Tensor] | None = None,
) -> M:
    """The model, built on the meta device, brought to ``device`` and filled from the files. Raises BadInput.

    ``arrange(key, tensor, config)`` reorders a released tensor where a checkpoint's order is not ours.
    """
    pieces, copies = judged(model, config, files, table)
    state = model.to_empty(device=device).state_dict()
    with torch.no_grad():
        # File by file: each is read once, and its pages are not wanted again.
        for piece in sorted(pieces, key=lambda piece: (files.stored[piece.released].file, piece.released)):
            place = piece.view(state)
            values = read(files, piece.released, config, ops, place.device)
            if arrange is not None:
                values = arrange(piece.key, values, config)
            # Checked as they end up: a value too large for the model's dtype is caught too.
            finite(place.copy_(values), files.stored[piece.released])
    for copy, original in copies.items():
        if not torch.equal(files.read(copy).float(), files.read(original).float()):
            what = f"differs from {original!r}, which it should repeat"
            raise BadInput(what, where=files.stored[copy].where, right="equal tensors: the model shares them")
    return model


def judged(model: nn.Module, config: ModelConfig, files: Files, table: Table) -> tuple[list[Piece], Mapping[str, str]]:
    """(the released tensors of a model, released copies and what they repeat), checked by header. Raises BadInput."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    pieces = [piece for name, shape in shapes.items() for piece in pieces_of(name, shape, config, table, files.stored)]
    copies = dict(copies_of(config, table, files))
    check(pieces, copies, files, config)
    return pieces, copies


def has_mtp(config: ModelConfig, files: Files) -> bool:
    """Whether the folder holds any tensor of the layers behind the last, where MTP modules are stored."""
    depths = range(getattr(config, "num_nextn_predict_layers", 0))
    layers = tuple(f"model.layers.{config.num_hidden_layers + k}." for k in depths)
    return any(stored.name.startswith(layers) and not IGNORED.fullmatch(stored.name) for stored in files)


def pieces_of(
    name: str, shape: tuple[int, ...], config: ModelConfig, table: Table, stored: Container[str] = ()
) -> Iterator[Piece]:
    """The released tensors that make up one of ours, in a folder of so named ones."""
    prefix, key, names = find(name, config, table)
    if key in table.stacked and prefix + table.stacked[key] in stored:
        yield Piece(prefix + table.stacked[key], name, key, shape)
        return
    experts = range(shape[0]) if "{e}" in names[0] else [None]
    height, *rest = shape[1:] if "{e}" in names[0] else shape
    rows = table.rows[key](config) if key in table.rows else [height // len(names)] * len(names)
    for expert in experts:
        start = 0
        for released, count in zip(names, rows, strict=True):
            yield Piece(prefix + released.format(e=expert), name, key, (count, *rest), expert, start)
            start += count


def find(name: str, config: ModelConfig, table: Table) -> tuple[str, str, Sequence[str]]:
    """(released prefix, our name below the layer, released names below the prefix) of one of our tensors."""
    if name in table.trunk:
        return "", name, table.trunk[name]
    kind, number, key = name.split(".", 2)
    layer = int(number) + (config.num_hidden_layers if kind == "mtp" else 0)
    if kind == "mtp" and key in table.mtp:
        return f"model.layers.{layer}.", key, table.mtp[key]
    key = key.removeprefix("block.")
    return f"model.layers.{layer}.", key, table.layer[key]


def copies_of(config: ModelConfig, table: Table, files: Files) -> Iterator[tuple[str, str]]:
    """(released copy, released original) of tensors the folder stores again though the model shares them."""
    head, embed = table.trunk["head.weight"][0], table.trunk["embed.weight"][0]
    if config.tie_word_embeddings and head in files.stored:
        yield head, embed
    for k in range(getattr(config, "num_nextn_predict_layers", 0)):
        for copy, ours in table.copies.items():
            released = f"model.layers.{config.num_hidden_layers + k}.{copy}"
            original = embed if config.tie_word_embeddings else table.trunk[ours][0]
            if released in files.stored:
                yield released, original


def check(pieces: Sequence[Piece], copies: Mapping[str, str], files: Files, config: ModelConfig) -> None:
    """Refuse a folder whose tensors are not exactly the wanted ones, by header alone. Raises BadInput."""
    where = str(files.folder)
    if missing := [piece for piece in pieces if piece.released not in files.stored]:
        first, more = missing[0], f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        right = "every tensor of the MTP modules, or none" if first.ours.startswith("mtp.") else f"it, for {first.ours}"
        raise BadInput(f"weight {first.released!r} is missing{more}", where=where, right=right)
    known = {*copies}
    for piece in pieces:
        stored = files.stored[piece.released]
        known.add(stored.name)
        if stored.shape != piece.shape:
            right = f"{list(piece.shape)} by config.json"
            raise BadInput(f"has shape {list(stored.shape)}", where=stored.where, right=right)
        if stored.dtype not in READABLE or (stored.dtype == FP8 and len(stored.shape) < 2):
            raise BadInput(f"has dtype {stored.dtype}", where=stored.where, right=" or ".join(READABLE))
        if stored.dtype == FP8:
            known.add(check_scale(stored, files, config))
    for stored in files:
        # Some savers write the empty matrices of zero shared experts: they hold no value.
        if stored.name in known or IGNORED.fullmatch(stored.name) or 0 in stored.shape:
            continue
        weight = files.stored.get(stored.name.removesuffix(SCALE))
        if weight is not None and weight.name != stored.name:
            raise BadInput(
                f"is the scale of a weight stored as {weight.dtype}", where=stored.where, right="FP8 weights"
            )
        right = "only the weights that config.json asks for"
        raise BadInput(f"has no place in this {config.model_type}", where=stored.where, right=right)
    for copy, original in copies.items():
        if files.stored[copy].shape != files.stored[original].shape:
            right = f"that of {original!r}, which it should repeat"
            raise BadInput(f"has shape {list(files.stored[copy].shape)}", where=files.stored[copy].where, right=right)


def check_scale(weight: Stored, files: Files, config: ModelConfig) -> str:
    """The name of an FP8 weight's block scales, found to fit. Raises BadInput."""
    if config.quantization_block is None:
        right = "quantization_config with weight_block_size"
        raise BadInput("is FP8, but config.json names no block size", where=weight.where, right=right)
    name = weight.name + SCALE
    scale = files.stored.get(name)
    if scale is None:
        raise BadInput(f"is FP8 without its scale {name!r}", where=weight.where, right="one scale per block")
    blocks = zip(weight.shape[-2:], config.quantization_block, strict=True)
    want = (*weight.shape[:-2], *(-(-size // block) for size, block in blocks))
    if scale.shape != want:
        right = f"{list(want)} for a weight of {list(weight.shape)}"
        raise BadInput(f"has shape {list(scale.shape)}", where=scale.where, right=right)
    if scale.dtype not in ANY_SCALE:
        raise BadInput(f"has dtype {scale.dtype}", where=scale.where, right=" or ".join(ANY_SCALE))
    return name


def read(files: Files, name: str, config: ModelConfig, ops: Ops, device: torch.device) -> Tensor:
    """One released tensor on the device, dequantised to float32 if it is FP8. Raises BadInput."""
    values = files.read(name).to(device)
    if files.stored[name].dtype != FP8:
        return values
    scale, block = finite(files.read(name + SCALE).to(device), files.stored[name + SCALE]), config.quantization_block
    if values.dim() == 2:
        return ops.dequantize(values, scale, torch.float32, block)
    pairs = zip(values, scale, strict=True)
    return torch.stack([ops.dequantize(one, its_scale, torch.float32, block) for one, its_scale in pairs])
