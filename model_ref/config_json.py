"""Reading a config.json strictly: the file, both RoPE spellings, the quantization table, types.

Whatever is not understood is refused by name; a value is never read as something else, and a key given
twice in two spellings must agree with itself. No torch is imported here.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from v3bench.model_ref.errors import BadInput

HERE = Path(__file__).parent


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file, without repeated keys, NaN or Infinity. Raises BadInput naming file and line."""
    where = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
        raw = json.loads(text, object_pairs_hook=lambda pairs: unique(pairs, where), parse_constant=refuse_constant)
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", where=where, right="a readable JSON file") from error
    except UnicodeDecodeError as error:
        raise BadInput("is not UTF-8 text", where=where, right="a JSON file") from error
    except json.JSONDecodeError as error:
        raise BadInput(f"line {error.lineno} is not JSON ({error.msg})", where=where, right="{...}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"is not JSON that can be read ({error})", where=where, right="{...}") from error
    if not isinstance(raw, dict):
        raise BadInput("holds no JSON object", where=where, right="{...}")
    return raw


def unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """The pairs of one JSON object. Raises BadInput when a key is there twice: JSON would keep the last."""
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise BadInput(f"key {key!r} is given twice", where=where, right="each key once")
        table[key] = value
    return table


def refuse_constant(name: str) -> Any:
    """Refuse NaN and Infinity, which Python's reader takes and JSON does not have."""
    raise ValueError(f"{name} is no JSON number")


def override(raw: dict[str, Any], changes: dict[str, Any], where: str) -> dict[str, Any]:
    """A copy of a config.json with dotted keys replaced: {"rope_scaling.factor": 8}."""
    raw = json.loads(json.dumps(raw))
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        table = raw
        for key in path:
            if not isinstance(table.get(key), dict):
                tables = [name for name, inner in table.items() if isinstance(inner, dict)]
                raise BadInput(
                    f"--set {dotted}: {key!r} is no table",
                    where=where,
                    right=closest(key, tables) or "a key below a table",
                )
            table = table[key]
        table[last] = value
    return raw


@cache
def architecture(model_type: str) -> dict[str, Any]:
    """Defaults and inert keys of one model_type, from architectures.json."""
    tables = json.loads((HERE / "architectures.json").read_text(encoding="utf-8"))
    own = tables[model_type]
    own = tables[own["like"]] | own if "like" in own else own
    return {"defaults": own["defaults"], "inert": tables["common"]["inert"] | own["inert"]}


def is_inert(key: str, value: Any, raw: dict[str, Any], inert: dict[str, Any]) -> bool:
    """Whether the key, with this value, changes nothing here.

    The table says "any", or the list of harmless values, or "= a + b": null or the sum of those other keys. Where one
    of those is missing it is the missing one that is wrong.
    """
    allowed = inert.get(key)
    if isinstance(allowed, str) and allowed.startswith("= "):
        parts = [raw.get(name) for name in allowed[2:].split(" + ")]
        sizes = [part for part in parts if isinstance(part, int)]
        return value is None or len(sizes) < len(parts) or value == sum(sizes)
    if isinstance(allowed, list):
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed)
    return allowed == "any"


def understood(key: str, known: Iterable[str], inert: dict[str, Any]) -> str:
    """What would be right in place of a key, or of its value, that is refused."""
    allowed = inert.get(key)
    if isinstance(allowed, list):
        return " or ".join(json.dumps(one) for one in allowed)
    return allowed or closest(key, known) or "a field of this architecture"


def closest(key: str, known: Iterable[str]) -> str:
    """The known key that looks most like this one, or ''."""
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.7)
    return repr(near[0]) if near else ""


def shown(value: Any) -> str:
    """A value for an error line, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def number(name: str, value: Any, where: str, *, least: float | None = None) -> float:
    """The value as a finite float, above 0 or at least ``least``. Raises BadInput."""
    right = "a number above 0" if least is None else f"a number of at least {least:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{name} is {shown(value)}", where=where, right=right)
    try:
        real = float(value)
    except OverflowError as error:
        raise BadInput(f"{name} is beyond the range of a float", where=where, right=right) from error
    if not math.isfinite(real) or real < (least or 0.0) or (least is None and real == 0.0):
        raise BadInput(f"{name} is {real!r}", where=where, right=right)
    return real


def check_type(name: str, value: Any, annotation: str, where: str) -> Any:
    """The value as the field's type, integers accepted for floats. Raises BadInput."""
    if value is None and "None" in annotation:
        return None
    wanted = annotation.split(" | ")[0]
    if isinstance(value, bool) == (wanted == "bool"):
        if wanted == "float" and isinstance(value, int | float):
            return number(name, value, where, least=0.0)
        if wanted == "int" and isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, {"int": int, "bool": bool, "str": str, "list": list}.get(wanted, ())):
            return value
    raise BadInput(f"{name} is {shown(value)}", where=where, right=f"a value of type {annotation}")


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
        "default": set(),
        "yarn": {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"},
        "llama3": {"low_freq_factor", "high_freq_factor"},
    }
    SHARED: ClassVar[set[str]] = {"factor", "original_max_position_embeddings"}
    # Keys of the table that are read elsewhere, or that say how it came about.
    ASIDE: ClassVar[set[str]] = {"type", "rope_type", "rope_theta", "partial_rotary_factor", "finetuned"}

    @classmethod
    def read(cls, raw: dict[str, Any], where: str) -> Self | None:
        """A ``rope_scaling`` or ``rope_parameters`` table; None when it scales nothing. Raises BadInput."""
        kinds = [raw[key] for key in ("rope_type", "type") if raw.get(key) is not None]
        kind = kinds[0] if kinds else "default"
        if any(other != kind for other in kinds):
            raise BadInput(
                f"rope_scaling has rope_type {kinds[0]!r} and type {kinds[1]!r}", where=where, right="one of them"
            )
        if not isinstance(kind, str) or kind not in cls.KEYS:
            right = ", ".join(cls.KEYS)
            raise BadInput(f"rope_scaling type {shown(kind)} is not understood", where=where, right=right)
        known = cls.KEYS[kind] | (cls.SHARED if kind != "default" else set())
        for key in raw:
            if key not in known | cls.ASIDE:
                right = closest(key, known) or f"of {kind}: {', '.join(sorted(known)) or 'none but rope_theta'}"
                raise BadInput(f"unknown rope_scaling key {key!r}", where=where, right=right)
        if raw.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise BadInput(
                f"partial_rotary_factor {shown(raw['partial_rotary_factor'])} is not understood",
                where=where,
                right="1.0",
            )
        if kind == "default":
            return None
        if missing := [key for key in sorted(cls.SHARED) if raw.get(key) is None]:
            raise BadInput(f"rope_scaling lacks {', '.join(missing)}", where=where)
        values: dict[str, Any] = {key: raw[key] for key in known if raw.get(key) is not None}
        for key, value in values.items():
            least = {"factor": 1.0, "mscale": 0.0, "mscale_all_dim": 0.0}.get(key)
            values[key] = number(f"rope_scaling.{key}", value, where, least=least)
        trained = values["original_max_position_embeddings"]
        if not trained.is_integer():
            raise BadInput(
                f"rope_scaling.original_max_position_embeddings is {trained!r}", where=where, right="an integer"
            )
        scaling = cls(kind=kind, **values | {"original_max_position_embeddings": int(trained)})
        if kind == "llama3" and scaling.high_freq_factor <= scaling.low_freq_factor:
            raise BadInput("rope_scaling.high_freq_factor is not above low_freq_factor", where=where)
        if kind == "yarn" and scaling.beta_fast < scaling.beta_slow:
            raise BadInput("rope_scaling.beta_fast is below beta_slow", where=where)
        return scaling


def read_rope(raw: dict[str, Any], where: str) -> tuple[float | None, RopeScaling | None]:
    """(rope_theta, scaling) from ``rope_theta`` + ``rope_scaling`` or ``rope_parameters``, taken out of ``raw``."""
    thetas = {"rope_theta": raw.pop("rope_theta", None)}
    read: dict[str, RopeScaling | None] = {}
    for key in ("rope_scaling", "rope_parameters"):
        table = raw.pop(key, None)
        if table is None:
            continue
        if not isinstance(table, dict):
            raise BadInput(f"{key} is {shown(table)}", where=where, right="a table {...} or null")
        read[key] = RopeScaling.read(table, where)
        thetas[f"{key}.rope_theta"] = table.get("rope_theta")
    given = {name: number(name, value, where) for name, value in thetas.items() if value is not None}
    if len(set(given.values())) > 1:
        raise BadInput(
            "; ".join(f"{name} is {value:g}" for name, value in given.items()), where=where, right="one value"
        )
    if len(read) == 2 and read["rope_scaling"] != read["rope_parameters"]:
        raise BadInput("rope_scaling and rope_parameters disagree", where=where, right="one of them")
    return next(iter(given.values()), None), next(iter(read.values()), None)


def read_quantization(raw: Any, where: str) -> tuple[int, int] | None:
    """The FP8 weight block of ``quantization_config``, (rows, columns); None for plain weights. Raises BadInput."""
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise BadInput(f"quantization_config is {shown(raw)}", where=where, right="a table {...} or null")
    allowed: dict[str, tuple[Any, ...]] = {
        "quant_method": ("fp8",),
        "fmt": ("e4m3", None),
        "activation_scheme": ("dynamic", None),
        # How activations are scaled; the stored weights and their scales are read alike.
        "scale_fmt": ("ue8m0", "float", None),
        "dequantize": (True, False, None),
    }
    for key, value in raw.items():
        if key in allowed and value not in allowed[key]:
            right = " or ".join(str(one) for one in allowed[key] if one is not None)
            raise BadInput(f"quantization_config.{key} {shown(value)} is not understood", where=where, right=right)
        if key not in {*allowed, "weight_block_size", "modules_to_not_convert"}:
            raise BadInput(
                f"quantization_config key {key!r} is not understood", where=where, right=closest(key, allowed)
            )
    if "quant_method" not in raw:
        raise BadInput("quantization_config lacks quant_method", where=where, right="fp8")
    block = raw.get("weight_block_size")
    if not (isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)):
        raise BadInput(f"weight_block_size {shown(block)} is not understood", where=where, right="[rows, columns]")
    return block[0], block[1]
