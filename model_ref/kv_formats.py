"""Storage formats of a KV cache in plain torch: the bytes that are kept, and what is read back from them.

    BF16, E4M3, Integer, FlashMLA    how one tensor of tokens is stored
    Split                            the first channels one way, the others another
    Window                           only the last tokens, and the first few
    mla, gqa                         a layer's formats by name

``store(x)`` takes x (..., L, W) and returns the bytes; ``load`` gives (..., L, W) float32, of a window its kept tokens.
A box that holds NaN or infinity loads as NaN throughout, zeros as zeros. A layer without tokens is stored in no bytes.

L tokens  W channels  r, c tokens and channels of a box, which shares one scale
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.formats import E4M3 as E4M3_VALUES
from v3bench.model_ref.scaling import GUARD, RELEASED, Scaling, joined

LATENT, ROPE, TILE = 512, 64, 128  # FlashMLA's one shape, and the channels of one of its scales
GROUP = 32  # tokens whose integers share a channel's scale (KIVI, arXiv 2402.02750)


@dataclass(frozen=True)
class Stored:
    """What is kept of a tensor (..., tokens, width): nothing but ``parts``."""

    parts: tuple[Tensor, ...]
    tokens: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes of the parts."""
        return sum(part.nbytes for part in self.parts)


class Storage(Protocol):
    """How tokens are kept."""

    def store(self, x: Tensor) -> Stored:
        """x (..., L, W) -> its bytes. Raises BadInput for a width the format does not have."""

    def load(self, stored: Stored) -> Tensor:
        """What ``store`` kept, (..., kept tokens, W) float32."""

    def kept(self, tokens: int) -> Tensor:
        """Which of so many tokens are kept, in order: int64."""


class Whole:
    """Keeps every token."""

    def kept(self, tokens: int) -> Tensor:
        return torch.arange(tokens)


@dataclass(frozen=True)
class BF16(Whole):
    """Two bytes a value."""

    def store(self, x: Tensor) -> Stored:
        return Stored((x.bfloat16(),), *x.shape[-2:])

    def load(self, stored: Stored) -> Tensor:
        return stored.parts[0].float()


@dataclass(frozen=True)
class E4M3(Whole):
    """One byte a value and a float32 scale for ``columns`` of a token's channels, 0 for all of them."""

    columns: int = 0
    clamp: float = GUARD

    def store(self, x: Tensor) -> Stored:
        codes, scales = Scaling(E4M3_VALUES, (1, self.columns), self.clamp).codes(x)
        return Stored((codes.to(torch.float8_e4m3fn).view(torch.uint8), scales.float()), *x.shape[-2:])

    def load(self, stored: Stored) -> Tensor:
        codes, scales = stored.parts
        columns = self.columns or max(stored.width, 1)
        return codes.view(torch.float8_e4m3fn).float() * scales.repeat_interleave(columns, -1)[..., : stored.width]


@dataclass(frozen=True)
class Integer(Whole):
    """2, 4 or 8 bits a value, 4, 2 or 1 of a token's values in a byte; a box stores its least value and a step.

    ``box`` (r, c): (1, 0) is per token; (32, 1) per channel over groups of 32 tokens. Tokens that do not fill a group
    stay in bfloat16, as in KIVI: a group's scales are known only when it is complete. Least value and step are of
    type ``scale``; where they exceed its range the box loads as NaN. Below half its least value above zero a step
    is 0, and the box loads as its least value.
    """

    bits: int
    box: tuple[int, int] = (1, 0)
    scale: torch.dtype = torch.float16

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8):
            raise BadInput(f"integers of {self.bits} bits", where="KV format", right="2, 4 or 8")
        if self.box[0] < 1 or self.box[1] < 0:
            raise BadInput(f"box {self.box}", where="KV format", right="tokens from 1, channels from 0 (all)")

    def store(self, x: Tensor) -> Stored:
        (L, W), r = x.shape[-2:], self.box[0]
        whole = L // r * r
        boxes = self.boxes(x[..., :whole, :].float())  # (..., I, r, J, c)
        low, high = boxes.amin((-3, -1)), boxes.amax((-3, -1))  # (..., I, J)
        step = ((high - low) / (2**self.bits - 1)).to(self.scale)
        low = low.to(self.scale)
        low = low.masked_fill(~(low.isfinite() & step.isfinite()), float("nan"))
        codes = (boxes - low.float()[..., None, :, None]) / step.float()[..., None, :, None]  # a step of 0 makes 0 / 0
        codes = joined(codes, torch.Size((*x.shape[:-2], whole, W))).round().nan_to_num(0.0).clamp(0, 2**self.bits - 1)
        return Stored(
            (packed(codes.byte(), self.bits), torch.stack((low, step), -1), x[..., whole:, :].bfloat16()), L, W
        )

    def load(self, stored: Stored) -> Tensor:
        data, scales, rest = stored.parts
        codes = unpacked(data, self.bits, stored.width).float()
        low, step = (part[..., None, :, None].float() for part in scales.unbind(-1))
        return torch.cat((joined(self.boxes(codes) * step + low, codes.shape), rest.float()), -2)

    def boxes(self, x: Tensor) -> Tensor:
        """x (..., L, W) of whole groups -> (..., I, r, J, c); the last channel fills the last box up."""
        (L, W), r = x.shape[-2:], self.box[0]
        c = self.box[1] or max(W, 1)
        if W % c:
            x = x[..., torch.arange(-(-W // c) * c, device=x.device).clamp(max=W - 1)]
        split: Tensor = x.unflatten(-2, (L // r, r)).unflatten(-1, (-(-W // c), c))
        return split


def packed(codes: Tensor, bits: int) -> Tensor:
    """codes (..., W) uint8 below 2^bits -> (..., ceil(W * bits / 8)), the first in the lowest bits."""
    per = 8 // bits
    codes = F.pad(codes, (0, -codes.shape[-1] % per)).unflatten(-1, (-1 if codes.shape[-1] else 0, per))
    out = codes[..., 0].clone()
    for i in range(1, per):
        out |= codes[..., i] << bits * i
    return out


def unpacked(data: Tensor, bits: int, width: int) -> Tensor:
    """As ``packed`` made it -> codes (..., width) uint8."""
    parts = [(data >> bits * i) & (2**bits - 1) for i in range(8 // bits)]
    return torch.stack(parts, -1).flatten(-2)[..., :width]


@dataclass(frozen=True)
class FlashMLA(Whole):
    """The 656 bytes of FlashMLA's token (kernels/paged_cache.py): 512 e4m3, 4 float32 scales, 64 bfloat16."""

    def store(self, x: Tensor) -> Stored:
        if x.shape[-1] != LATENT + ROPE:
            raise BadInput(f"tokens of {x.shape[-1]} channels", where="FlashMLA's layout", right=f"{LATENT + ROPE}")
        codes, scales = E4M3(TILE, RELEASED).store(x[..., :LATENT]).parts
        parts = codes, scales.contiguous(), x[..., LATENT:].bfloat16().contiguous()
        return Stored((torch.cat([part.view(torch.uint8) for part in parts], -1),), *x.shape[-2:])

    def load(self, stored: Stored) -> Tensor:
        codes, scales, rest = (part.contiguous() for part in stored.parts[0].split([LATENT, 16, 2 * ROPE], -1))
        latent = E4M3(TILE).load(Stored((codes, scales.view(torch.float32)), stored.tokens, LATENT))
        return torch.cat((latent, rest.view(torch.bfloat16).float()), -1)


@dataclass(frozen=True)
class Split(Whole):
    """The first ``width`` channels in another format, the rest in bfloat16: MLA's latent, and its decoupled key."""

    width: int
    first: Storage

    def store(self, x: Tensor) -> Stored:
        first, rest = self.first.store(x[..., : self.width]), BF16().store(x[..., self.width :])
        return Stored(first.parts + rest.parts, *x.shape[-2:])

    def load(self, stored: Stored) -> Tensor:
        first = self.first.load(Stored(stored.parts[:-1], stored.tokens, self.width))
        return torch.cat((first, stored.parts[-1].float()), -1)


@dataclass(frozen=True)
class Window:
    """The ``last`` tokens, and ``sinks`` first ones beside them (arXiv 2309.17453), in another format."""

    last: int
    sinks: int = 0
    inside: Storage = field(default_factory=BF16)

    def __post_init__(self) -> None:
        if self.last < 1 or self.sinks < 0:
            raise BadInput(f"a window of {self.last} tokens and {self.sinks} sinks", where="KV format")

    def store(self, x: Tensor) -> Stored:
        return self.inside.store(x[..., self.kept(x.shape[-2]), :])

    def load(self, stored: Stored) -> Tensor:
        return self.inside.load(stored)

    def kept(self, tokens: int) -> Tensor:
        token = torch.arange(tokens)
        return token[(token < self.sinks) | (token >= tokens - self.last)]


MLA = ("bf16", "fp8", "int8-token", "int8-channel", "int4-token", "int4-channel", "int2-channel")
GQA = ("bf16", "fp8", "int8-token", "int8-kivi", "int4-token", "int4-kivi", "int2-kivi")


def integers(name: str) -> tuple[Integer, Integer]:
    """A name such as "int4-kivi" -> keys and values: "kivi" is keys per channel and values per token."""
    kind, _, along = name.partition("-")
    bits = int(kind.removeprefix("int"))
    token, channel = Integer(bits), Integer(bits, (GROUP, 1))
    return (token if along == "token" else channel), (channel if along == "channel" else token)


def mla(name: str, latent: int, window: int = 0, sinks: int = 0) -> Storage:
    """How MLA's tokens (latent + decoupled key) are stored; the decoupled key stays in bfloat16. Raises BadInput."""
    if name not in MLA:
        raise BadInput(f"format {name!r}", where="MLA's cache", right=f"one of {', '.join(MLA)}")
    inside: Storage = BF16()
    if name != "bf16":
        inside = Split(latent, E4M3(TILE, RELEASED) if name == "fp8" else integers(name)[0])
    if (name, latent) == ("fp8", LATENT):
        inside = FlashMLA()
    return Window(window, sinks, inside) if window else inside


def gqa(name: str, window: int = 0, sinks: int = 0) -> tuple[Storage, Storage]:
    """How a head's keys and values are stored, each (L, d). Raises BadInput."""
    if name not in GQA:
        raise BadInput(f"format {name!r}", where="GQA's cache", right=f"one of {', '.join(GQA)}")
    keys: Storage
    values: Storage
    if name in ("bf16", "fp8"):
        keys = values = BF16() if name == "bf16" else E4M3()
    else:
        keys, values = integers(name)
    if window:
        return Window(window, sinks, keys), Window(window, sinks, values)
    return keys, values
