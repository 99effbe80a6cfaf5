"""Configuration of the dense baselines: Llama-3.x and Qwen-2.5, read as strictly as DeepSeek's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from v3bench.model_ref.config import ModelConfig
from v3bench.model_ref.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class DenseConfig(ModelConfig):
    """A dense decoder: MHA, GQA or MQA by ``num_key_value_heads``, optionally with a sliding window."""

    num_key_value_heads: int
    head_dim: int
    qkv_bias: bool
    mlp_bias: bool
    sliding_window: int | None      # tokens a query sees, itself included; None: all
    windowed_from: int              # first layer with the window (Qwen-2's max_window_layers)

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("llama", "qwen2")

    @classmethod
    def prepare(cls, raw: dict[str, Any], where: str) -> dict[str, Any]:
        heads, hidden = raw.get("num_attention_heads"), raw.get("hidden_size")
        if raw.get("head_dim") is None and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
            if hidden % heads:
                raise BadInput(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}", where=where)
            raw["head_dim"] = hidden // heads
        if raw.get("num_key_value_heads") is None and raw.get("model_type") == "llama":
            raw["num_key_value_heads"] = heads
        if "qkv_bias" in raw:
            raise BadInput("key 'qkv_bias' is not config.json's", where=where, right="attention_bias, or model_type qwen2")
        raw["qkv_bias"] = raw.get("model_type") == "qwen2" or bool(raw.get("attention_bias", False))
        layers = raw.get("num_hidden_layers", 0)
        first = raw.pop("max_window_layers", 28 if raw.get("model_type") == "qwen2" else 0)
        used = raw.pop("use_sliding_window", raw.get("model_type") != "qwen2")
        types = raw.pop("layer_types", None)
        if types is not None:
            if not isinstance(types, list) or len(types) != layers or set(types) - {"full_attention", "sliding_attention"}:
                raise BadInput("layer_types is not understood", where=where, right="full_attention or sliding_attention per layer")
            sliding = [kind == "sliding_attention" for kind in types]
            first = sliding.index(True) if any(sliding) else layers
            if not all(sliding[first:]):
                raise BadInput("layer_types mixes windows in an order that is not understood", where=where)
            used = any(sliding)
        if not used:
            raw["sliding_window"] = None
        raw["windowed_from"] = first if raw.get("sliding_window") is not None else 0
        return raw

    def window(self, layer: int) -> int | None:
        """The sliding window of one layer, in tokens; None for full attention."""
        return self.sliding_window if layer >= self.windowed_from else None

    def check(self, where: str) -> None:
        super().check(where)
        if self.num_attention_heads % self.num_key_value_heads:
            raise BadInput(
                f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads {self.num_key_value_heads}",
                where=where,
            )
        if self.head_dim % 2:
            raise BadInput(f"head_dim {self.head_dim} is odd", where=where, right="an even number")
