"""Configuration of the dense baselines: Llama-3.x and Qwen-2.5, read as strictly as DeepSeek's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from v3bench.model_ref.config import ModelConfig
from v3bench.model_ref.config_json import shown
from v3bench.model_ref.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class DenseConfig(ModelConfig):
    """A dense decoder: MHA, GQA or MQA by ``num_key_value_heads``, optionally with a sliding window."""

    num_key_value_heads: int
    head_dim: int
    qkv_bias: bool
    mlp_bias: bool
    sliding_window: int | None  # tokens a query sees, itself included; None: all
    sliding_layers: tuple[int, ...]  # the layers that have the window

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("llama", "qwen2")
    DERIVED: ClassVar[tuple[str, ...]] = (*ModelConfig.DERIVED, "qkv_bias", "sliding_layers")
    READ: ClassVar[dict[str, str]] = {
        "use_sliding_window": "bool",
        "max_window_layers": "int",
        "layer_types": "list | None",
        # Both may be null, which derive() resolves.
        "head_dim": "int | None",
        "num_key_value_heads": "int | None",
    }

    @classmethod
    def derive(cls, values: dict[str, Any], where: str) -> dict[str, Any]:
        heads, hidden, layers = values["num_attention_heads"], values["hidden_size"], values["num_hidden_layers"]
        if values["head_dim"] is None:
            if heads < 1 or hidden % heads:
                raise BadInput(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}", where=where)
            values["head_dim"] = hidden // heads
        if values["num_key_value_heads"] is None:
            values["num_key_value_heads"] = heads
        qwen = values["model_type"] == "qwen2"
        for key in ("attention_bias", "mlp_bias"):
            if qwen and values[key]:
                raise BadInput(
                    f"key {key!r} = True is not understood for qwen2",
                    where=where,
                    right="false: only q, k and v have biases",
                )
        values["qkv_bias"] = qwen or values["attention_bias"]
        used = values.pop("use_sliding_window")
        first, types = values.pop("max_window_layers"), values.pop("layer_types")
        sliding: Sequence[int] = (
            range(max(first, 0), layers) if used and values["sliding_window"] is not None else range(0)
        )
        if types is not None:
            if len(types) != layers or any(kind not in ("full_attention", "sliding_attention") for kind in types):
                right = f"full_attention or sliding_attention for each of the {layers} layers"
                raise BadInput(f"layer_types {shown(types)} is not understood", where=where, right=right)
            sliding = [i for i, kind in enumerate(types) if kind == "sliding_attention"]
            if sliding and not used:
                raise BadInput("layer_types has sliding_attention without a sliding_window in use", where=where)
        values["sliding_layers"] = tuple(sliding)
        values["sliding_window"] = values["sliding_window"] if sliding else None
        return values

    def window(self, layer: int) -> int | None:
        """The sliding window of one layer, in tokens; None for full attention."""
        return self.sliding_window if layer in self.sliding_layers else None

    def check(self, where: str) -> None:
        super().check(where)
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            raise BadInput(f"num_attention_heads {heads} is no multiple of num_key_value_heads {groups}", where=where)
        if self.head_dim % 2:
            raise BadInput(f"head_dim {self.head_dim} is odd", where=where, right="an even number")
