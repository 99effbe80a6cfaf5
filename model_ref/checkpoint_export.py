"""What DeepSeek-V3 releases in FP8, and how: E4M3 codes with a float32 scale per block of 128 x 128.

    Matrix      one weight matrix under its released name, as a folder stores it
    matrices    all of a folder
    V3          its quantiser, and ``quantize`` with real codes
    described   config.json's table for it

FP8 are the matrices of attention, dense and expert networks, the MTP layer's own too. Embedding, head, gate, norms,
biases and MTP's eh_proj stay as they are (deepseek-ai/DeepSeek-V3, model.safetensors.index.json: these lack a scale).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from v3bench.model_ref.checkpoint_table import Piece, Table, pieces_of
from v3bench.model_ref.config import ModelConfig
from v3bench.model_ref.formats import E4M3
from v3bench.model_ref.scaling import Scaling

BLOCK = (128, 128)
# No clamp that could flush a block of small weights: a block of zeros gets the least scale instead.
V3 = Scaling(E4M3, BLOCK)
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Matrix:
    """A matrix of weights; several may lie in one stored tensor, as the experts of transformers' own layout do."""

    name: str  # as released, one tensor each
    stored: str
    shape: tuple[int, int]
    in_fp8: bool  # whether V3's layout has it in FP8
    expert: int | None = None  # its place in the stored tensor
    start: int = 0

    @property
    def layer(self) -> int | None:
        """The layer's number, or None outside layers."""
        found = re.match(r"model\.layers\.(\d+)\.", self.name)
        return None if found is None else int(found[1])

    @property
    def kind(self) -> str:
        """The name without layer, expert and ".weight": "mlp.experts.gate_proj"."""
        name = re.sub(r"^model\.(layers\.\d+\.)?|\.weight$", "", self.name)
        return re.sub(r"\.\d+\.", ".", name)

    def rows(self, tensor: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Rows of the stored tensor that are this matrix's rows ``first`` to ``last``, as a view."""
        tensor = tensor if self.expert is None else tensor[self.expert]
        return tensor[self.start + first : self.start + (self.shape[0] if last is None else last)]


def matrices(pieces: Sequence[Piece], table: Table) -> Iterator[Matrix]:
    """The matrices of a folder whose tensors are ``pieces``; stacked ones come apart, as they are released."""
    for piece in pieces:
        if len(piece.shape) < 2:
            continue
        in_fp8 = piece.key.rpartition(".")[2].startswith("w_")  # how the table names what is multiplied in FP8
        if len(piece.shape) == 2:
            yield Matrix(piece.released, piece.released, (piece.shape[0], piece.shape[1]), in_fp8)
            continue
        prefix, names = piece.released.removesuffix(table.stacked[piece.key]), table.layer[piece.key]
        experts, height, columns = piece.shape
        rows = height // len(names)
        for e in range(experts):
            for n, name in enumerate(names):
                released = prefix + name.format(e=e)
                yield Matrix(released, piece.released, (rows, columns), in_fp8, e, n * rows)


def quantize(w: Tensor) -> tuple[Tensor, Tensor]:
    """w (R, C) -> codes (R, C) e4m3, scales (ceil(R/128), ceil(C/128)) float32; NaN for a block that holds one."""
    codes, scales = V3.codes(w)
    return codes.to(FP8), scales


def released(model: nn.Module, config: ModelConfig, table: Table) -> dict[str, Tensor]:
    """The weights of a model under their released names, views of its own: what ``load_pretrained`` reads back."""
    state = model.state_dict()
    pieces = (piece for name, w in state.items() for piece in pieces_of(name, tuple(w.shape), config, table))
    return {piece.released: piece.view(state) for piece in pieces}


def described() -> dict[str, Any]:
    """The ``quantization_config`` of deepseek-ai/DeepSeek-V3's config.json."""
    return {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": list(BLOCK)}
