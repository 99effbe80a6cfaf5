"""The model's configuration: a released config.json, read strictly.

Field names are config.json's own, so that there is nothing to translate. A key is either a field, or
listed as inert in architectures.json, or refused: a config is never read as something else.
No torch is imported here; counting by formula needs none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from v3bench.model_ref.config_json import (
    RopeScaling,
    architecture,
    check_type,
    is_inert,
    number,
    override,
    read_json,
    read_quantization,
    read_rope,
    shown,
    understood,
)
from v3bench.model_ref.errors import BadInput

__all__ = ["Config", "ModelConfig", "RopeScaling", "override", "read_json"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every decoder here has. Subclasses add their fields and name the ``model_type`` they read."""

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    attention_bias: bool
    tie_word_embeddings: bool
    hidden_act: str
    initializer_range: float
    quantization_block: tuple[int, int] | None = None

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ()
    # Fields made from other keys: as keys of a config.json they are unknown.
    DERIVED: ClassVar[tuple[str, ...]] = ("rope_scaling", "quantization_block")
    # Types of keys that ``derive`` folds into fields.
    READ: ClassVar[dict[str, str]] = {}
    # What null stands for where the released code accepts it.
    NULLS: ClassVar[dict[str, Any]] = {}
    MAY_BE_ZERO: ClassVar[tuple[str, ...]] = ()
    # What is gone through one by one, and the width of real tables of angles: a slip of the finger must not take hours
    # or all memory.
    LARGEST: ClassVar[dict[str, int]] = {
        "num_hidden_layers": 100_000,
        "num_nextn_predict_layers": 100_000,
        "head_dim": 65_536,
        "qk_rope_head_dim": 65_536,
    }

    @classmethod
    def from_file(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> Self:
        """Read a config.json, with dotted ``overrides`` put in first. Raises BadInput."""
        return cls.from_dict(override(read_json(path), overrides or {}, str(path)), where=str(path))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config") -> Self:
        """Read released field names; refuse, by name, whatever is not understood. Raises BadInput."""
        model_type = raw.get("model_type")
        if model_type not in cls.MODEL_TYPES:
            right = " or ".join(cls.MODEL_TYPES)
            raise BadInput(f"model_type {shown(model_type)} is not understood", where=where, right=right)
        table = architecture(model_type)
        types = {f.name: str(f.type) for f in fields(cls) if f.name not in cls.DERIVED} | cls.READ
        raw = dict(raw)
        theta, scaling = read_rope(raw, where)
        values: dict[str, Any] = dict(table["defaults"]) | ({} if theta is None else {"rope_theta": theta})
        block = read_quantization(raw.pop("quantization_config", None), where)
        for key, value in raw.items():
            if key in types:
                value = cls.NULLS[key] if value is None and key in cls.NULLS else value
                values[key] = check_type(key, value, types[key], where)
            elif not is_inert(key, value, raw, table["inert"]):
                raise BadInput(
                    f"key {key!r} = {shown(value)} is not understood for {model_type}",
                    where=where,
                    right=understood(key, types, table["inert"]),
                )
        if missing := sorted(types.keys() - values.keys()):
            raise BadInput(f"config lacks {', '.join(missing)}", where=where)
        cls.bound(values, where)  # before anything is derived layer by layer
        values |= {"rope_scaling": scaling, "quantization_block": block}
        config = cls(**cls.derive(values, where))
        config.check(where)
        return config

    @classmethod
    def derive(cls, values: dict[str, Any], where: str) -> dict[str, Any]:
        """The fields' values, with those put in that keys only together determine. Types are checked already."""
        return values

    @classmethod
    def bound(cls, values: dict[str, Any], where: str) -> None:
        """Raise BadInput where a value is beyond what any model could have."""
        for key, most in cls.LARGEST.items():
            if isinstance(values.get(key), int) and values[key] > most:
                raise BadInput(f"{key} is {shown(values[key])}", where=where, right=f"at most {most}")

    def check(self, where: str) -> None:
        """Raise BadInput where sizes do not fit each other."""
        self.bound(vars(self), where)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, int) and not isinstance(value, bool):
                least = 0 if f.name in self.MAY_BE_ZERO else 1
                if value < least:
                    raise BadInput(f"{f.name} is {shown(value)}", where=where, right=f"an integer of at least {least}")
            if isinstance(value, float):
                number(f.name, value, where, least=0.0 if f.name in self.MAY_BE_ZERO else None)
        if self.hidden_act != "silu":
            raise BadInput(f"hidden_act {shown(self.hidden_act)} is not understood", where=where, right="silu")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again. Raises BadInput."""
        changed = replace(self, **changes)
        changed.check("config")
        return changed


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """DeepSeek V2 and V3: multi-head latent attention and DeepSeekMoE (V3 report, section 2.1)."""

    first_k_dense_replace: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    moe_intermediate_size: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    routed_scaling_factor: float
    scoring_func: str
    topk_method: str
    norm_topk_prob: bool
    num_nextn_predict_layers: int
    moe_layer_freq: int
    aux_loss_alpha: float
    seq_aux: bool
    # The order of a checkpoint's rotary rows: pairs side by side (released), or halves. Only loading looks at it.
    rope_interleave: bool

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("deepseek_v3", "deepseek_v2", "kimi_k2")
    NULLS: ClassVar[dict[str, Any]] = {
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 0,
        "num_nextn_predict_layers": 0,
    }
    MAY_BE_ZERO: ClassVar[tuple[str, ...]] = (
        "first_k_dense_replace",
        "num_nextn_predict_layers",
        "n_shared_experts",
        "aux_loss_alpha",
    )
    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "scoring_func": ("sigmoid", "softmax"),
        "topk_method": ("noaux_tc", "group_limited_greedy", "greedy"),
    }

    @property
    def num_moe_layers(self) -> int:
        """Layers with routed experts: all but the first few, MTP modules not counted."""
        return self.num_hidden_layers - self.first_k_dense_replace

    @property
    def mtp_is_moe(self) -> bool:
        """Whether MTP modules have routed experts: the released ones do, those of an all-dense model do not."""
        return self.num_moe_layers > 0

    @property
    def has_correction_bias(self) -> bool:
        """Auxiliary-loss-free balancing keeps one bias per expert, for selection only (section 2.1.2)."""
        return self.topk_method == "noaux_tc"

    def check(self, where: str) -> None:
        """Raise BadInput where sizes do not fit each other or a method is not understood."""
        super().check(where)
        for name, allowed in self.CHOICES.items():
            if getattr(self, name) not in allowed:
                right = " or ".join(allowed)
                raise BadInput(f"{name} {shown(getattr(self, name))} is not understood", where=where, right=right)
        if self.moe_layer_freq != 1:
            raise BadInput(f"moe_layer_freq {self.moe_layer_freq} is not understood", where=where, right="1")
        dense, layers = self.first_k_dense_replace, self.num_hidden_layers
        if dense > layers:
            raise BadInput(f"first_k_dense_replace {dense} exceeds num_hidden_layers {layers}", where=where)
        if self.qk_rope_head_dim % 2:
            raise BadInput(f"qk_rope_head_dim {self.qk_rope_head_dim} is odd", where=where, right="an even number")
        experts, groups = self.n_routed_experts, self.n_group
        if experts % groups:
            raise BadInput(f"n_routed_experts {experts} is no multiple of n_group {groups}", where=where)
        if self.topk_group > groups:
            raise BadInput(f"topk_group {self.topk_group} exceeds n_group {groups}", where=where)
        if self.topk_method == "noaux_tc" and experts // groups < 2:
            why = f"noaux_tc scores a group by its two best experts; n_group {groups} leaves one"
            raise BadInput(why, where=where)
        eligible = experts if self.topk_method == "greedy" else experts // groups * self.topk_group
        if self.num_experts_per_tok > eligible:
            chosen = self.num_experts_per_tok
            raise BadInput(f"num_experts_per_tok {chosen} exceeds the {eligible} eligible experts", where=where)
