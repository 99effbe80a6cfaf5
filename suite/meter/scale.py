"""How much of a published model a measurement covers: full, slice or proxy. Granted here, claimed nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache, partial
from typing import Any

from v3bench.suite import models
from v3bench.suite.laws import slices, work
from v3bench.suite.meter.measurement import Scale
from v3bench.suite.models import AnyConfig

# The presets that are released models; the others are of our making or inferred from prose.
PUBLISHED = (
    "deepseek-v3", "deepseek-v2", "deepseek-v2-lite",
    "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b", "qwen2.5-7b", "qwen2.5-72b",
)  # fmt: skip
TENSOR_CORE = "fp8-tensor-core"  # of the GPU that runs: what claims about the hardware mean, not a part of it
# What a slice may have less of than the model it is cut from; every dimension of a layer stays.
DEPTH = {"num_hidden_layers", "first_k_dense_replace", "num_nextn_predict_layers"}


def granted(config: AnyConfig) -> Scale:
    """ "full" is a released model's shapes and depth; "slice" has fewer layers; all else is "proxy"."""
    scales = {against(config, models.load(name)[1]) for name in PUBLISHED}
    return "full" if "full" in scales else "slice" if "slice" in scales else "proxy"


def published(config: AnyConfig, called: str) -> str | None:
    """The released model that a folder is: of its config, key by key, and called as it is; None for every other.

    Later releases have the same config, and their weights are not what was published about.
    """
    same = (name for name in PUBLISHED if against(config, models.load(name)[1]) == "full")
    return next((name for name in same if name == called.lower()), None)


def against(config: AnyConfig, published: AnyConfig) -> Scale:
    """The scale of a config beside one released model."""
    if type(config) is not type(published):
        return "proxy"
    differing = {f.name for f in fields(config) if getattr(config, f.name) != getattr(published, f.name)}
    if not differing:
        return "full"
    fewer = all(getattr(config, name) <= getattr(published, name) for name in differing & DEPTH)
    return "slice" if differing <= DEPTH and fewer else "proxy"


@cache
def of_preset(name: str) -> Scale:
    """The scale of a preset; "proxy" for a subject that is none."""
    return granted(models.load(name)[1]) if name in models.presets() else "proxy"


def of_case(subject: str, shape: Mapping[str, Any]) -> Scale:
    """The scale of a case's subject: of a preset by its name, of "kernels.<op>" by the shapes it runs at.

    What reads the tensor core itself is of full scale: its claims are about the hardware, whatever the shapes.
    """
    if subject == TENSOR_CORE:
        return "full"
    area, _, op = subject.partition(".")
    if area != "kernels" or op not in work.WORK:
        return of_preset(subject)
    shapes = shape.get("shapes", [shape])
    return "slice" if all(map(partial(of_a_layer, op), shapes)) else "proxy"


def of_weights(name: str, shapes: Iterable[tuple[int, ...]]) -> Scale:
    """The scale of what reads weights of these shapes, beside a released model's."""
    own = name in PUBLISHED and slices.of_weights(models.load(name)[1], shapes)
    return "slice" if own else "proxy"


def of_a_layer(op: str, shape: Mapping[str, int]) -> bool:
    """Whether a layer of a released model has this operation at this shape; no shape is nobody's."""
    return bool(shape) and any(slices.is_slice(op, shape, models.load(name)[1]) for name in PUBLISHED)
