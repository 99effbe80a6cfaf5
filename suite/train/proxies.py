"""The small models that are trained, as data, each with a why. What a case tries is the subject "proxy.<name>"."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v3bench.model_ref.errors import BadInput
from v3bench.suite import models
from v3bench.suite.ledger.data import read_toml, record
from v3bench.suite.models import AnyConfig

if TYPE_CHECKING:
    import torch
    from v3bench.baselines.dense import Dense
    from v3bench.model_ref.model import Model

PATH = Path(__file__).parent / "proxies.toml"
PREFIX = "proxy."


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A preset with ``change`` put into it."""

    preset: str
    change: dict[str, Any]
    why: str

    @property
    def config(self) -> AnyConfig:
        """The model's config. Raises BadInput."""
        return models.load(self.preset, self.change)[1]

    def build(self, device: torch.device | str, dtype: torch.dtype) -> Model | Dense:
        """The modules, without MTP."""
        return models.build(self.config, device=device, dtype=dtype, mtp=False)


@cache
def load(path: Path = PATH) -> dict[str, Proxy]:
    """Proxies by name. Raises BadInput naming what is wrong."""
    return {name: record(Proxy, raw, f"{path.name}: {name}") for name, raw in read_toml(path).items()}


def read(name: str) -> Proxy:
    """One proxy. Raises BadInput."""
    if name not in load():
        raise BadInput(f"no proxy {name!r}", where="case", right=f"one of {', '.join(load())}")
    return load()[name]


def tried(series: str) -> str:
    """ "proxy.fp8/emulated" -> "fp8": what the series tries."""
    return series.partition("/")[0].removeprefix(PREFIX)
