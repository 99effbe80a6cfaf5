"""Results without work: what an operation would return, as an empty tensor, for operands on the meta device.

torch's own meta kernels of elementwise operations are Python code that loads its compiler first (seconds) and
decides at length; counting a large model calls thousands of them. Where a rule here is not sure, torch decides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Elementwise operations whose result has the operands' common dtype, of any kind or of floating kinds only.
ANY_KIND = frozenset(("add", "sub", "mul", "floor_divide"))
FLOATING = frozenset(("div", "pow", "rsqrt"))


def result(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The result of the aten operation ``name`` on meta tensors; None where no rule applies."""
    if name in ANY_KIND or name in FLOATING:
        return elementwise(name, args) if kwargs.keys() <= {"alpha"} else None
    if name == "arange":
        return arange(*args, **kwargs)
    if kwargs:
        return None
    if name == "mean" and len(args) >= 2 and args[1] is not None and plain(args[0]):
        return mean(*args)
    if name == "cat":
        return cat(*args)
    if name == "polar" and all(map(plain, args)) and args[0].shape == args[1].shape:
        return polar(args[0])
    return None


def plain(value: Any) -> bool:
    """A contiguous meta tensor."""
    return isinstance(value, Tensor) and value.is_meta and value.is_contiguous()


def in_order(x: Tensor) -> bool:
    """Strides fall from dimension to dimension, so that an elementwise result is contiguous."""
    strides = [stride for stride, n in zip(x.stride(), x.shape, strict=True) if n > 1 and stride]
    return strides == sorted(strides, reverse=True)


def elementwise(name: str, operands: tuple[Any, ...]) -> Tensor | None:
    tensors = [x for x in operands if isinstance(x, Tensor)]
    if len(operands) > 2 or not all(x.is_meta and in_order(x) for x in tensors):
        return None
    dtype = torch.result_type(*operands) if len(operands) == 2 else tensors[0].dtype
    if (name in FLOATING and not (dtype.is_floating_point or dtype.is_complex)) or dtype == torch.bool:
        return None
    shape = torch.broadcast_shapes(*(x.shape for x in tensors))
    whole = any(x.shape == shape and 0 not in x.stride() for x in tensors)
    if not whole and (len(shape) > 2 or not all(map(plain, tensors))):
        return None  # of several broadcast operands none decides the order of strides
    return tensors[0].new_empty(shape, dtype=dtype)


def mean(x: Tensor, dims: list[int], keepdim: bool = False) -> Tensor | None:
    if not dims or not x.is_floating_point():
        return None
    reduced = {dim % x.dim() for dim in dims}
    shape = [1 if i in reduced else n for i, n in enumerate(x.shape) if keepdim or i not in reduced]
    return x.new_empty(shape)


def polar(radius: Tensor) -> Tensor:
    return radius.new_empty(radius.shape, dtype=radius.dtype.to_complex())


def arange(*bounds: Any, **options: Any) -> Tensor | None:
    if not all(type(n) is int for n in bounds) or torch.device(options.get("device") or "cpu").type != "meta":
        return None
    dtype = options.get("dtype") or torch.int64
    return torch.empty(len(range(*bounds)), dtype=dtype, device="meta")


def cat(tensors: list[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    if not all(x.is_meta and x.dtype == first.dtype and x.dim() == first.dim() > 0 for x in tensors):
        return None
    if first.dim() in (4, 5) and all(x.stride(1) <= x.stride(-1) for x in tensors):
        return None  # perhaps channels last, which the result would be too
    shape = list(first.shape)
    shape[dim] = sum(x.shape[dim] for x in tensors)
    return first.new_empty(shape)


class WithoutInitialisation(TorchFunctionMode):
    """While modules are made on the meta device: random values for their parameters are not drawn."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_", "trunc_normal_"):
            target = args[0] if args else kwargs["tensor"]
            if target.is_meta:
                return target
        return func(*args, **kwargs)
