"""Activations of a model: the inputs and weights of every product of its layers, as they meet in a forward pass.

Recorded through the operations that a model is built on (kernels/ops.py), so that nothing of it needs a hook.

T tokens (of an expert's product: pairs of token and expert)  K inputs  N outputs  E experts
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from v3bench.baselines.dense import Dense
from v3bench.kernels import experts, ffn, grouped_gemm, linear, norm, norm_linear, swiglu
from v3bench.kernels.linear import HIGH
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref.model import Model
from v3bench.suite import models


@dataclass(frozen=True)
class Product:
    """The sides of one product: x (T, K), and w (N, K), or (E, N, K) with ``offsets`` (E), the ends of each's rows."""

    x: Tensor
    w: Tensor
    offsets: Tensor | None = None

    def by_expert(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The pairs (rows, K), (N, K) that are multiplied, without the experts that no token chose."""
        if self.offsets is None:
            yield self.x, self.w
            return
        for e, rows in grouped_gemm.segments(self.offsets):
            yield self.x[rows], self.w[e]


@torch.no_grad()
def recorded(model: Model | Dense, ids: Tensor) -> dict[str, Product]:
    """ids (B, S) int64 -> the products of the layers by the name of their weight, in the order in which they run.

    Multiplied as torch does, in the weights' precision, whatever the model itself is built on. Head, gate and MTP are
    left out.
    """
    found: dict[str, Product] = {}
    names = {weight.data_ptr(): name for name, weight in model.named_parameters()}

    def keep(x: Tensor, w: Tensor, offsets: Tensor | None = None) -> None:
        name = names.get(w.data_ptr())
        if name is not None:
            found[name] = Product(x.reshape(-1, x.shape[-1]).clone(), w.detach(), offsets)

    twin = models.build(model.config, device=ids.device, dtype=model.embed.weight.dtype, ops=keeping(keep), mtp=False)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    twin.load_state_dict({name: own[name] for name in twin.state_dict()}, assign=True)
    twin(ids)
    return found


def keeping(keep: Callable[..., None]) -> Ops:
    """Torch's own operations, which show both sides of every product before it is made."""

    def one(x: Tensor, w: Tensor, b: Tensor | None = None, *, site: str = "") -> Tensor:
        if site not in HIGH:
            keep(x, w)
        return linear.linear(x, w, b)

    def by_expert(x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
        keep(x, w, offsets)
        return grouped_gemm.grouped_gemm(x, w, offsets)

    return replace(
        TORCH,
        name="recording",
        linear=one,
        norm_linear=partial(norm_linear.composed, rms_norm=norm.rms_norm, product=one),
        ffn=partial(ffn.composed, rms_norm=norm.rms_norm, product=one, activation=swiglu.swiglu),
        experts=partial(experts.grouped, gemm=by_expert),
    )
