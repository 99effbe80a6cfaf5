"""The model's configuration: a released config.json, read strictly.

Field names are config.json's own, so that there is nothing to translate. A key is either a field, or
listed as inert in architectures.json, or refused: a config is never read as something else.
No torch is imported here; counting by formula needs none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from v3bench.model_ref.errors import BadInput

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How RoPE is stretched beyond the trained context: ``yarn`` (DeepSeek) or ``llama3``."""

    kind: str
    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    KEYS: ClassVar[dict[str, set[str]]] = {
        "yarn": {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"},
        "llama3": {"low_freq_factor", "high_freq_factor"},
    }

    @classmethod
    def read(cls, raw: dict[str, Any], where: str) -> Self | None:
        """A ``rope_scaling`` or ``rope_parameters`` table; None when it scales nothing."""
        kind = raw.get("rope_type", raw.get("type", "default"))
        if kind == "default":
            return None
        if kind not in cls.KEYS:
            raise BadInput(f"rope_scaling type {kind!r} is not understood", where=where, right="yarn, llama3 or default")
        shared = {"factor", "original_max_position_embeddings"}
        if missing := shared - raw.keys():
            raise BadInput(f"rope_scaling lacks {', '.join(sorted(missing))}", where=where)
        known = shared | cls.KEYS[kind]
        inert = {"type", "rope_type", "rope_theta", "partial_rotary_factor", "finetuned"}
        if unknown := raw.keys() - known - inert:
            right = ", ".join(sorted(known))
            raise BadInput(f"unknown rope_scaling key {sorted(unknown)[0]!r}", where=where, right=f"one of {right}")
        if raw.get("partial_rotary_factor", 1.0) != 1.0:
            raise BadInput("partial_rotary_factor is not understood", where=where, right="1.0")
        values = {key: raw[key] for key in known if raw.get(key) is not None}
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadInput(f"rope_scaling.{key} is {value!r}", where=where, right="a number")
        return cls(kind=kind, **values)


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
    initializer_range: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    attention_bias: bool
    tie_word_embeddings: bool
    hidden_act: str
    quantization_block: tuple[int, int] | None = None

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_file(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> Self:
        """Read a config.json, with dotted ``overrides`` put in first."""
        return cls.from_dict(override(read_json(path), overrides or {}, str(path)), where=str(path))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config") -> Self:
        """Read released field names; refuse, by name, whatever is not understood. Raises BadInput."""
        model_type = raw.get("model_type")
        if model_type not in cls.MODEL_TYPES:
            raise BadInput(f"model_type {model_type!r} is not understood", where=where, right=" or ".join(cls.MODEL_TYPES))
        table = architecture(model_type)
        own = {f.name: f for f in fields(cls)}
        raw = cls.prepare(dict(raw), where)
        theta, scaling = read_rope(raw, where)
        values: dict[str, Any] = dict(table["defaults"]) | {"quantization_block": None}
        if theta is not None:
            values["rope_theta"] = theta
        values["quantization_block"] = read_quantization(raw.pop("quantization_config", None), where)
        for key, value in raw.items():
            if key in own and key not in ("rope_scaling", "quantization_block"):
                values[key] = value
            elif not is_inert(key, value, raw, table["inert"]):
                raise BadInput(
                    f"key {key!r} = {value!r} is not understood for {model_type}",
                    where=where,
                    right="a field of this architecture, or a key listed as inert in architectures.json",
                )
        values["rope_scaling"] = scaling
        values = {key: value for key, value in values.items() if key in own}
        if missing := [name for name in own if name not in values]:
            raise BadInput(f"config lacks {', '.join(sorted(missing))}", where=where)
        for name, f in own.items():
            values[name] = check_type(name, values[name], str(f.type), where)
        config = cls(**values)
        config.check(where)
        return config

    @classmethod
    def prepare(cls, raw: dict[str, Any], where: str) -> dict[str, Any]:
        """Fold keys that only together mean something into fields, before reading."""
        return raw

    def check(self, where: str) -> None:
        """Raise BadInput where sizes do not fit each other."""
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, int) and not isinstance(value, bool) and value < 1 and f.name not in MAY_BE_ZERO:
                raise BadInput(f"{f.name} is {value}", where=where, right="a positive integer")
        if self.hidden_act != "silu":
            raise BadInput(f"hidden_act {self.hidden_act!r} is not understood", where=where, right="silu")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        changed = replace(self, **changes)
        changed.check("config")
        return changed


MAY_BE_ZERO = {"first_k_dense_replace", "num_nextn_predict_layers", "n_shared_experts", "windowed_from"}


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

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("deepseek_v3", "deepseek_v2", "kimi_k2")

    @classmethod
    def prepare(cls, raw: dict[str, Any], where: str) -> dict[str, Any]:
        for key in ("n_group", "topk_group"):       # null in V2-Lite's released file: no grouping
            if raw.get(key, 1) is None:
                raw[key] = 1
        if raw.get("n_shared_experts", 0) is None:
            raw["n_shared_experts"] = 0
        return raw

    @property
    def num_moe_layers(self) -> int:
        return self.num_hidden_layers - self.first_k_dense_replace

    @property
    def has_correction_bias(self) -> bool:
        """Auxiliary-loss-free balancing keeps one bias per expert, for selection only (section 2.1.2)."""
        return self.topk_method == "noaux_tc"

    def check(self, where: str) -> None:
        super().check(where)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise BadInput(f"{name} {getattr(self, name)!r} is not understood", where=where, right=" or ".join(allowed))
        if self.moe_layer_freq != 1:
            raise BadInput(f"moe_layer_freq {self.moe_layer_freq} is not understood", where=where, right="1")
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise BadInput(
                f"first_k_dense_replace {self.first_k_dense_replace} exceeds num_hidden_layers {self.num_hidden_layers}",
                where=where,
            )
        if self.qk_rope_head_dim % 2:
            raise BadInput(f"qk_rope_head_dim {self.qk_rope_head_dim} is odd", where=where, right="an even number")
        if self.n_routed_experts % self.n_group:
            raise BadInput(f"n_routed_experts {self.n_routed_experts} is no multiple of n_group {self.n_group}", where=where)
        if self.topk_group > self.n_group:
            raise BadInput(f"topk_group {self.topk_group} exceeds n_group {self.n_group}", where=where)
        eligible = self.n_routed_experts
        if self.topk_method != "greedy":
            eligible = self.n_routed_experts // self.n_group * self.topk_group
        if self.topk_method == "noaux_tc" and self.n_routed_experts // self.n_group < 2:
            raise BadInput(f"noaux_tc scores a group by its two best experts; n_group {self.n_group} leaves one", where=where)
        if self.num_experts_per_tok > eligible:
            raise BadInput(f"num_experts_per_tok {self.num_experts_per_tok} exceeds the {eligible} eligible experts", where=where)


CHOICES = {
    "scoring_func": ("sigmoid", "softmax"),
    "topk_method": ("noaux_tc", "group_limited_greedy", "greedy"),
}


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file. Raises BadInput naming the file and the line."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", where=str(path), right="a readable config.json") from error
    except UnicodeDecodeError as error:
        raise BadInput("is not UTF-8 text", where=str(path), right="a JSON file") from error
    except json.JSONDecodeError as error:
        raise BadInput(f"line {error.lineno} is not JSON ({error.msg})", where=str(path)) from error
    if not isinstance(raw, dict):
        raise BadInput("holds no JSON object", where=str(path), right="{...} with model_type")
    return raw


@cache
def architecture(model_type: str) -> dict[str, Any]:
    """Defaults and inert keys of one model_type, from architectures.json."""
    tables = json.loads((HERE / "architectures.json").read_text(encoding="utf-8"))
    own = tables[model_type]
    own = tables[own["like"]] if "like" in own else own
    return {"defaults": own["defaults"], "inert": tables["common"]["inert"] | own["inert"]}


def is_inert(key: str, value: Any, raw: dict[str, Any], inert: dict[str, Any]) -> bool:
    """Whether the key, with this value, changes nothing here."""
    allowed = inert.get(key)
    if allowed == "= num_attention_heads":
        return value is None or value == raw.get("num_attention_heads")
    return allowed == "any" or (isinstance(allowed, list) and value in allowed)


def read_rope(raw: dict[str, Any], where: str) -> tuple[float | None, RopeScaling | None]:
    """(rope_theta, scaling) from either spelling; both keys are taken out of ``raw``."""
    theta = raw.pop("rope_theta", None)
    tables = [raw.pop(key) for key in ("rope_scaling", "rope_parameters") if raw.get(key) is not None]
    for key in ("rope_scaling", "rope_parameters"):
        raw.pop(key, None)
    if any(not isinstance(table, dict) for table in tables):
        raise BadInput("rope_scaling is no table", where=where, right="{...} or null")
    read = [RopeScaling.read(table, where) for table in tables]
    if len(read) == 2 and read[0] != read[1]:
        raise BadInput("rope_scaling and rope_parameters disagree", where=where)
    thetas = {table["rope_theta"] for table in tables if "rope_theta" in table} | ({theta} - {None})
    if len(thetas) > 1:
        raise BadInput(f"rope_theta is given twice, as {sorted(thetas)}", where=where)
    return (thetas.pop() if thetas else None), (read[0] if read else None)


def read_quantization(raw: dict[str, Any] | None, where: str) -> tuple[int, int] | None:
    """The FP8 weight block of ``quantization_config``, (rows, columns); None for plain weights."""
    if raw is None:
        return None
    if not isinstance(raw, dict) or raw.get("quant_method") != "fp8" or raw.get("fmt", "e4m3") != "e4m3":
        raise BadInput(f"quantization_config {raw!r} is not understood", where=where, right="quant_method fp8, fmt e4m3")
    block = raw.get("weight_block_size")
    if not (isinstance(block, list) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block)):
        raise BadInput(f"weight_block_size {block!r} is not understood", where=where, right="[rows, columns]")
    return block[0], block[1]


def check_type(name: str, value: Any, annotation: str, where: str) -> Any:
    """The value as the field's type, integers accepted for floats. Raises BadInput."""
    if name in ("rope_scaling", "quantization_block"):
        return value
    if value is None and "None" in annotation:
        return None
    wanted = annotation.split(" | ")[0]
    if wanted == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    kinds = {"int": int, "bool": bool, "str": str}
    if wanted == "int" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if wanted not in kinds or not isinstance(value, kinds[wanted]) or (wanted == "int" and isinstance(value, bool)):
        raise BadInput(f"{name} is {value!r}", where=where, right=f"a value of type {wanted}")
    return value


def override(raw: dict[str, Any], changes: dict[str, Any], where: str) -> dict[str, Any]:
    """A copy of a config.json with dotted keys replaced: {"rope_scaling.factor": 8}."""
    raw = json.loads(json.dumps(raw))
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        table = raw
        for key in path:
            if not isinstance(table.get(key), dict):
                raise BadInput(f"--set {dotted}: {key!r} is no table", where=where)
            table = table[key]
        table[last] = value
    return raw
