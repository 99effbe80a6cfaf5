"""What launchers check before they launch: one clear error that names the argument, never a wrong number.

tensors       that they are tensors, where more is asked of them first than ``tensor`` does
tensor        dtype, rank, last stride, alignment, size
scales        scales of tiles or blocks, with any strides
result        the dtype asked for
device        one device for all, able to run the kernel
Needs         the least compute capability of a kernel, and why; ``missing`` says what a device lacks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes: vector loads and the bulk copy engine
MOST = 2**31 - 1  # elements of one dimension's index; offsets of whole tensors are int64 inside the kernels


@dataclass(frozen=True)
class Needs:
    """The least compute capability, and the instruction that asks for it."""

    capability: tuple[int, int]
    why: str


HOPPER = Needs((9, 0), "warpgroup matrix instructions on FP8")
AMPERE = Needs((8, 0), "bfloat16 tensor cores")


def missing(needs: Needs, device: torch.device) -> str:
    """What ``device`` lacks, in words; "" when nothing. The interpreter (device cpu) and "meta" lack nothing."""
    if device.type in ("cpu", "meta"):
        return ""
    if device.type != "cuda":
        return f"needs a CUDA device, not {device.type}"
    have = torch.cuda.get_device_capability(device)
    if have >= needs.capability:
        return ""
    want = ".".join(map(str, needs.capability))
    return f"needs compute capability {want} ({needs.why}); this device has {'.'.join(map(str, have))}"


def interpreted() -> bool:
    """Whether this process runs Triton's kernels in its interpreter, on a CPU."""
    from v3bench.kernels.casts import INTERPRETED

    return bool(INTERPRETED.value)


def device(op: str, needs: Needs, *tensors: Tensor) -> torch.device:
    """The one device of all tensors, able to run the kernel. Raises ValueError."""
    first = tensors[0].device
    for t in tensors[1:]:
        if t.device != first:
            raise ValueError(f"{op}: tensors lie on {first} and {t.device}; one device is needed")
    if lacking := missing(needs, first):
        raise ValueError(f"{op}: {lacking}")
    if first.type == "cpu" and not interpreted():
        raise ValueError(f"{op}: tensors lie on the CPU; a CUDA device is needed, or TRITON_INTERPRET=1 for a check")
    return first


def tensors(op: str, **given: object) -> None:
    """Check that arguments, by name, are tensors. Raises ValueError."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{op}: {name} is {type(value).__name__}, expected a tensor")


def tensor(
    op: str,
    name: str,
    value: Tensor,
    dtypes: Sequence[torch.dtype] | torch.dtype,
    shape: Sequence[int | None],
    *,
    contiguous: bool = False,
    aligned: bool = True,
) -> None:
    """Check one argument: dtype, shape (None: any size), last dimension dense, rows aligned to 16 bytes.

    Raises ValueError naming operation and argument, with what would be right.
    """
    allowed = (dtypes,) if isinstance(dtypes, torch.dtype) else tuple(dtypes)
    where = f"{op}: {name}"
    tensors(op, **{name: value})
    if value.dtype not in allowed:
        raise ValueError(f"{where} is {short(value.dtype)}, expected {' or '.join(map(short, allowed))}")
    fits = value.ndim == len(shape) and all(want in (None, n) for n, want in zip(value.shape, shape, strict=True))
    if not fits:
        want = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{where} has shape {tuple(value.shape)}, expected ({want})")
    if any(n > MOST for n in value.shape):
        raise ValueError(f"{where} has shape {tuple(value.shape)}; a dimension above 2^31 - 1 is not supported")
    if contiguous and not value.is_contiguous():
        raise ValueError(f"{where} has strides {value.stride()}, expected a contiguous tensor")
    if value.numel() == 0:
        return
    if value.shape[-1] > 1 and value.stride(-1) != 1:
        raise ValueError(f"{where} has strides {value.stride()}; the last dimension must be dense")
    if aligned:
        steps = [s * value.itemsize for s, n in zip(value.stride()[:-1], value.shape[:-1], strict=True) if n > 1]
        if any(step % ALIGNMENT for step in steps) or value.data_ptr() % ALIGNMENT:
            raise ValueError(f"{where} has rows that do not start at multiples of {ALIGNMENT} bytes")


def scales(op: str, name: str, value: Tensor, shape: Sequence[int]) -> None:
    """Check scales (.., ceil(K/128)) float32, which may have any strides. Raises ValueError."""
    tensors(op, **{name: value})
    if value.dtype != torch.float32:
        raise ValueError(f"{op}: {name} is {short(value.dtype)}, expected float32")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(
            f"{op}: {name} has shape {tuple(value.shape)}, expected {tuple(shape)}: a scale per 128 columns"
        )
    if any(n * step > MOST for n, step in zip(shape, value.stride(), strict=True)):
        raise ValueError(f"{op}: {name} has strides {value.stride()}; it must not span more than 2^31 - 1 elements")


def result(op: str, dtype: torch.dtype, allowed: Sequence[torch.dtype]) -> None:
    """Check ``out_dtype``. Raises ValueError."""
    if dtype not in allowed:
        raise ValueError(f"{op}: out_dtype is {short(dtype)}, expected {' or '.join(map(short, allowed))}")


def short(dtype: torch.dtype) -> str:
    """A dtype without torch's prefix."""
    return str(dtype).removeprefix("torch.")
