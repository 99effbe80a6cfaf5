"""Dense baselines (Llama-3.1, Qwen-2.5); importing a name loads only what it needs."""

from typing import Any

_HOME = {"DenseConfig": "config", "load_pretrained": "checkpoint"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
