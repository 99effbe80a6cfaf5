"""Every model the suite knows by name, and any config.json: one lookup for all commands."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v3bench.baselines.config import DenseConfig
from v3bench.model_ref.config import Config, override, read_json
from v3bench.model_ref.errors import BadInput

if TYPE_CHECKING:
    import torch
    from v3bench.baselines.dense import Dense
    from v3bench.kernels.ops import Ops
    from v3bench.model_ref.model import Model

ROOT = Path(__file__).resolve().parent.parent
AnyConfig = Config | DenseConfig


@cache
def presets() -> dict[str, Path]:
    """Preset name -> its config.json."""
    folders = (ROOT / "model_ref" / "presets", ROOT / "baselines" / "presets")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.json"))}


def load(model: str, overrides: dict[str, Any] | None = None) -> tuple[str, AnyConfig]:
    """(name, config) of a preset, a config.json or a checkpoint folder. Raises BadInput."""
    path = presets().get(model)
    name = model
    if path is None:
        path = Path(model)
        if model and path.is_dir():
            path = path / "config.json"
            if not path.exists():
                raise BadInput("holds no config.json", where=model, right="a folder with a config.json")
        if not model or not path.exists():
            raise BadInput(f"no preset and no file {model!r}", right=f"a config.json or one of {', '.join(presets())}")
        name = path.resolve().parent.name if path.name == "config.json" else path.stem
    raw = override(read_json(path), overrides or {}, str(path))
    # The file as it stands may be right: what was changed is named with it.
    where = str(path) + (f" with {', '.join(overrides)} changed" if overrides else "")
    kind = raw.get("model_type")
    for cls in (Config, DenseConfig):
        if kind in cls.MODEL_TYPES:
            return name, cls.from_dict(raw, where=where)
    right = " or ".join(Config.MODEL_TYPES + DenseConfig.MODEL_TYPES)
    raise BadInput(f"model_type {kind!r} is not understood", where=where, right=right)


def build(
    config: AnyConfig,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    ops: Ops | None = None,
    mtp: bool = True,
) -> Model | Dense:
    """The modules of a config, initialised unless on the meta device; ``mtp`` matters to DeepSeek's only."""
    from v3bench.kernels.ops import TORCH
    from v3bench.suite.meter.shapes import WithoutInitialisation

    ops = TORCH if ops is None else ops
    with WithoutInitialisation():
        if isinstance(config, DenseConfig):
            from v3bench.baselines.dense import Dense

            return Dense(config, ops=ops, device=device, dtype=dtype)
        from v3bench.model_ref.model import Model

        return Model(config, ops=ops, device=device, dtype=dtype, mtp=mtp)
