"""Reference implementation of DeepSeek-V3; importing a name loads only what it needs."""

from typing import Any

_HOME = {"Config": "config", "BadInput": "errors", "load_pretrained": "checkpoint"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
