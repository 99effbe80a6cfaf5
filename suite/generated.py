"""A checkpoint of random weights in the layout of DeepSeek-V3's release, of any size, written without being held.

FP8 codes with block scales for what is FP8 there, bfloat16 for the rest, float32 for the routers' biases; MTP layers
behind the last, with their copies of embedding and head; shards in the order of the layers. It loads and runs like the
release, and says nothing: it is for measuring how weights are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from v3bench.model_ref.checkpoint import DEEPSEEK
from v3bench.model_ref.checkpoint_export import BLOCK, described
from v3bench.model_ref.checkpoint_files import FP8, INDEX
from v3bench.model_ref.checkpoint_table import SCALE, find
from v3bench.model_ref.config import Config, read_json
from v3bench.suite import models
from v3bench.suite.meter.progress import Reading
from v3bench.suite.run_folder import write_whole
from v3bench.suite.tensor_file import Entry, TensorFile, size_of

SHARD = 1 << 30  # bytes of a file, about
BAND = 1 << 24  # values made at a time
CODES = 0xBF  # a code without the exponent's highest bit: never NaN, at most 1.875
SPREAD = 0.6  # root mean square of such codes' values, all equally likely


def write(
    folder: Path,
    raw: dict[str, Any],
    *,
    seed: int = 0,
    shard: int = SHARD,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Write the checkpoint of a config.json without ``quantization_config``; bytes of weights. Raises OSError."""
    config = Config.from_dict(raw)
    folder.mkdir(parents=True, exist_ok=True)
    plan = list(shards(list(tensors(config)), shard))
    total = sum(size_of(entries) for entries in plan)
    progress = Reading("writing", sum(entry.values for entries in plan for entry in entries), say)
    random, names = torch.Generator().manual_seed(seed), {}
    shared: dict[str, int] = {}
    for n, entries in enumerate(plan, start=1):
        file = f"model-{n:05}-of-{len(plan):05}.safetensors"
        with TensorFile(folder / file, entries) as out:
            for entry in entries:
                names[entry.name] = file
                # A copy is drawn as its original was.
                kind = original(entry.name)
                state = shared.setdefault(kind, len(names)) if kind else len(names)
                for band in drawn(entry, random.manual_seed(seed + state)):
                    out.put(entry.name, band)
                progress(entry.values)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
    write_whole(folder / INDEX, json.dumps(index, indent=1) + "\n")
    write_whole(folder / "config.json", json.dumps(raw | {"quantization_config": described()}, indent=1) + "\n")
    return total


def tensors(config: Config) -> Iterator[Entry]:
    """Every tensor of the release, layer by layer, scales behind their weights."""
    model = models.build(config, device="meta")
    for name, tensor in model.state_dict().items():
        prefix, key, released = find(name, config, DEEPSEEK)
        in_fp8 = key.rpartition(".")[2].startswith("w_")
        dtype = FP8 if in_fp8 else "F32" if key.endswith("_bias") else "BF16"
        experts = range(tensor.shape[0]) if "{e}" in released[0] else [0]
        height, *rest = tensor.shape[1:] if "{e}" in released[0] else tensor.shape
        for e in experts:
            for one in released:
                shape = (height // len(released), *rest)
                yield Entry(prefix + one.format(e=e), dtype, shape)
                if in_fp8:
                    grid = tuple(-(-size // side) for size, side in zip(shape, BLOCK, strict=True))
                    yield Entry(prefix + one.format(e=e) + SCALE, "F32", grid)
    for k in range(config.num_nextn_predict_layers):
        for copy in DEEPSEEK.copies:
            shape = (config.vocab_size, config.hidden_size)
            yield Entry(f"model.layers.{config.num_hidden_layers + k}.{copy}", "BF16", shape)


def shards(entries: list[Entry], size: int) -> Iterator[list[Entry]]:
    """The entries by file, none much larger than ``size``: whole layers' order, the trunk's own tensors first."""

    def order(entry: Entry) -> tuple[int, str]:
        words = entry.name.split(".")
        return (int(words[2]) if words[1] == "layers" else -1), entry.name

    part: list[Entry] = []
    for entry in sorted(entries, key=order):
        if part and size_of(part) + entry.bytes > size:
            yield part
            part = []
        part.append(entry)
    yield part


def original(name: str) -> str:
    """Which shared matrix a tensor is, or "": the embedding or the head, wherever it stands."""
    shared = {"embed_tokens.weight": "embedding", "lm_head.weight": "head", "shared_head.head.weight": "head"}
    return next((kind for ending, kind in shared.items() if name.endswith(ending)), "")


def drawn(entry: Entry, random: torch.Generator) -> Iterator[Tensor]:
    """Its values in bands: matrices spread so that products keep the size of what they read, norms near one."""
    step = max(BAND // math.prod(entry.shape[1:]), 1)
    for first in range(0, entry.shape[0], step):
        shape = (min(step, entry.shape[0] - first), *entry.shape[1:])
        if entry.dtype == FP8:
            words = torch.empty(-(-math.prod(shape) // 8), dtype=torch.int64).random_(-(2**63), None, generator=random)
            yield words.view(torch.uint8)[: math.prod(shape)].bitwise_and_(CODES).view(shape)
        elif entry.name.endswith(SCALE):
            width = shape[1] * BLOCK[1]
            yield (torch.rand(shape, generator=random) + 0.5) / (SPREAD * width**0.5)
        elif len(shape) == 1:
            about = 0.0 if entry.dtype == "F32" else 1.0
            yield (about + 0.1 * torch.randn(shape, generator=random)).to(DTYPES[entry.dtype])
        else:
            yield (torch.randn(shape, generator=random) * shape[1] ** -0.5).to(DTYPES[entry.dtype])


DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Size:
    """Sizes of a reduced DeepSeek-V3."""

    hidden_size: int
    layers: int
    dense: int
    heads: int
    experts: int
    inner: int  # of an expert
    vocab_size: int = 256

    def config(self) -> dict[str, Any]:
        """config.json: the preset's, with these sizes."""
        raw = read_json(models.presets()["deepseek-v3"])
        raw.pop("quantization_config", None)
        return raw | {
            "hidden_size": self.hidden_size, "num_hidden_layers": self.layers, "first_k_dense_replace": self.dense,
            "num_attention_heads": self.heads, "num_key_value_heads": self.heads, "q_lora_rank": 512,
            "kv_lora_rank": 256, "intermediate_size": 4 * self.hidden_size, "moe_intermediate_size": self.inner,
            "n_routed_experts": self.experts, "vocab_size": self.vocab_size,
        }  # fmt: skip
