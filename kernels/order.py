"""Tokens sorted by the expert they were sent to: which row each copy of a token gets, built where the choice lies.

    Order                        the result: a value that permute, unpermute and the grouped GEMMs share, checked as it
                                 is built, also by hand
    reference                    the definition, a stable sort
    kernel_count, kernel_place   Triton: a histogram of every block of choices, then their stable positions
    order                        launcher; one kernel for few tokens, else two; no wait for the GPU

Within an expert the rows stand in the order of the tokens, so that the result is one, and the same at every run. Each
expert's segment may be padded to a multiple of rows (128 for tiles of a weight gradient). A choice outside 0..E-1, such
as an expert of another GPU, gets no row. The number of rows R is the most that any choice can need, as the true number
is known on the device only; rows that no choice got are marked by token -1.

T tokens  K choices per token  E experts  N = TK choices  R rows
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from v3bench.kernels import checks
from v3bench.kernels.launch import Config, Launch, cdiv, run, split

NEEDS = checks.Needs((8, 0), "the least that Triton compiles for")
MOST_CHOICES = 2**28  # so that N, padded, has int32 rows
MOST_EXPERTS = 1024  # counted in one block's registers
MOST_BLOCK = 1024  # choices that a program sorts: 8 warps need some 2000 instructions each for it


@dataclass(frozen=True, eq=False)
class Order:
    """All int32: offsets (E), the end of each expert's segment, as grouped_gemm takes them; rows (T, K), the row of
    each choice, -1 for none; pairs (R), the choice t K + k that a row holds, -1 in padding; tokens (R), its t, or -1.

    Raises ValueError. Numbers out of range are an error on the CPU. On a GPU, where to look at them would mean to wait
    for it, no kernel follows them: what they should have named is NaN, or not written.
    """

    offsets: Tensor
    rows: Tensor
    pairs: Tensor
    tokens: Tensor

    def __post_init__(self) -> None:
        for name, part in vars(self).items():
            shape = (None,) * (2 if name == "rows" else 1)
            checks.tensor("order", name, part, torch.int32, shape, contiguous=True, aligned=False)
        where = {part.device for part in self.parts}
        if len(where) > 1:
            raise ValueError(f"order: tensors lie on {' and '.join(sorted(map(str, where)))}; one device is needed")
        (T, _), N, R = self.rows.shape, self.rows.numel(), len(self.tokens)
        if len(self.pairs) != R or R < N:
            raise ValueError(f"order: pairs has {len(self.pairs)} rows and tokens {R}, expected {N} or more of both")
        if R > MOST_CHOICES:
            raise ValueError(f"order: tokens has {R} rows, expected at most {MOST_CHOICES}")
        if self.rows.device.type != "cpu":
            return
        ranges = {"offsets": (0, R), "rows": (-1, R - 1), "pairs": (-1, N - 1), "tokens": (-1, T - 1)}
        for name, (least, most) in ranges.items():
            part = getattr(self, name)
            if ((part < least) | (part > most)).any():
                raise ValueError(f"order: {name} has {part.min()} to {part.max()}, expected {least} to {most}")
        if (self.offsets.diff() < 0).any():
            raise ValueError("order: offsets decrease; each expert's segment ends where the next one begins")

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All four."""
        return self.offsets, self.rows, self.pairs, self.tokens


def rows_needed(N: int, E: int, align: int) -> int:
    """The most rows that N choices among E experts can take."""
    return (N + min(N, E) * (align - 1)) // align * align


def reference(chosen: Tensor, E: int, align: int = 1) -> Order:
    """chosen (T, K) integers -> Order."""
    (_, K), flat = chosen.shape, chosen.flatten().tolist()
    R = rows_needed(len(flat), E, align)
    own: list[list[int]] = [[] for _ in range(E)]  # each expert's choices, in order
    for pair, choice in enumerate(flat):
        if 0 <= choice < E:
            own[choice].append(pair)
    offsets, rows, pairs = [], [-1] * len(flat), [-1] * R
    row = 0
    for its in own:
        for n, pair in enumerate(its):
            rows[pair], pairs[row + n] = row + n, pair
        row += cdiv(len(its), align) * align
        offsets.append(row)
    whole = torch.tensor(pairs, dtype=torch.int32)
    made = (torch.tensor(offsets), torch.tensor(rows).view(chosen.shape), whole, torch.where(whole < 0, -1, whole // K))
    return Order(*(part.to(torch.int32).to(chosen.device) for part in made))


@triton.jit
def choices(chosen_ptr, at, N, E):  # type: ignore[no-untyped-def]
    """The choices at these places as int32, and which of them are experts here."""
    e = tl.load(chosen_ptr + at, mask=at < N, other=-1)
    valid = (e >= 0) & (e < E)
    return tl.where(valid, e, 0).to(tl.int32), valid


@triton.jit
def kernel_count(  # type: ignore[no-untyped-def]
    chosen_ptr, counts_ptr, pairs_ptr, tokens_ptr, N, E, R,
    BLOCK: tl.constexpr, BINS: tl.constexpr, MARK: tl.constexpr,
):  # fmt: skip
    """One program: how often each expert was chosen in one block; with MARK, its share of the rows marked -1."""
    block = tl.program_id(0)
    e, valid = choices(chosen_ptr, block * BLOCK + tl.arange(0, BLOCK), N, E)
    tl.store(counts_ptr + block * BINS + tl.arange(0, BINS), tl.histogram(e, BINS, mask=valid))
    if MARK:
        share = tl.cdiv(R, tl.num_programs(0))
        for first in range(0, share, BLOCK):
            own = first + tl.arange(0, BLOCK)
            row = block * share + own
            inside = (own < share) & (row < R)
            tl.store(pairs_ptr + row, tl.full((BLOCK,), -1, tl.int32), mask=inside)
            tl.store(tokens_ptr + row, tl.full((BLOCK,), -1, tl.int32), mask=inside)


@triton.jit
def kernel_place(  # type: ignore[no-untyped-def]
    chosen_ptr, counts_ptr, offsets_ptr, rows_ptr, pairs_ptr, tokens_ptr, N, E, BLOCKS,
    K: tl.constexpr, ALIGN: tl.constexpr, ALONE: tl.constexpr,
    BLOCK: tl.constexpr, BINS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: the rows of one block's choices, from the counts of all blocks (ALONE: there is no other)."""
    block, bins, lane = tl.program_id(0), tl.arange(0, BINS), tl.arange(0, BLOCK)
    e, valid = choices(chosen_ptr, block * BLOCK + lane, N, E)
    mine = tl.histogram(e, BINS, mask=valid)
    before = tl.zeros_like(mine)
    total = mine
    if not ALONE:
        total = tl.zeros_like(mine)
        for first in range(0, BLOCKS, STEP):
            other = first + tl.arange(0, STEP)
            at = other[:, None] * BINS + bins[None, :]
            count = tl.load(counts_ptr + at, mask=(other < BLOCKS)[:, None], other=0)
            total += tl.sum(count, 0)
            before += tl.sum(tl.where((other < block)[:, None], count, 0), 0)
    segment = (total + ALIGN - 1) // ALIGN * ALIGN
    ends = tl.cumsum(segment, 0)
    if block == 0:
        tl.store(offsets_ptr + bins, ends, mask=bins < E)
    # Sorted by expert, then place, a block holds each expert's choices in a run; strangers come last.
    key = tl.sort(tl.where(valid, e, BINS) * BLOCK + lane)
    e, own = key // BLOCK, key % BLOCK
    valid = e < BINS
    # A run's first row, less the run's first place in the sorted block.
    start = ends - segment + before - (tl.cumsum(mine, 0) - mine)
    row = tl.gather(start, tl.where(valid, e, 0), 0) + lane
    pair = block * BLOCK + own
    tl.store(rows_ptr + pair, tl.where(valid, row, -1), mask=pair < N)
    if ALIGN == 1:  # choices without a row mark what is left over, behind the last segment
        row = tl.where(valid, row, tl.sum(total) + (block * BLOCK - tl.sum(before)) + lane - tl.sum(mine))
        holds = pair < N
    else:
        holds = valid
    tl.store(pairs_ptr + row, tl.where(valid, pair, -1), mask=holds)
    tl.store(tokens_ptr + row, tl.where(valid, pair // K, -1), mask=holds)


def blocks_for(N: int) -> Config:
    """One block for few choices, else blocks of the most that one can sort; two warps an SM's scheduler at most."""
    block = min(max(triton.next_power_of_2(N), 64), MOST_BLOCK)
    return {"BLOCK": block, "STEP": 32, "num_warps": max(block // 128, 1)}


def launches_order(
    chosen: Tensor, counts: Tensor, parts: Mapping[str, Tensor], *, align: int, config: Config
) -> tuple[Launch, ...]:
    """As the launcher's argument and an Order's parts; counts (blocks, BINS) int32 is scratch."""
    (blocks, BINS), (sizes, options) = counts.shape, split(config)
    N, E, R = chosen.numel(), len(parts["offsets"]), len(parts["pairs"])
    common: dict[str, Any] = {
        "chosen_ptr": chosen,
        "counts_ptr": counts,
        "pairs_ptr": parts["pairs"],
        "tokens_ptr": parts["tokens"],
    }
    common |= {"N": N, "E": E, "BLOCK": sizes["BLOCK"], "BINS": BINS}
    count = Launch(kernel_count, (blocks,), {**common, "R": R, "MARK": align > 1}, options)
    place = {
        **common, "offsets_ptr": parts["offsets"], "rows_ptr": parts["rows"], "BLOCKS": blocks, "K": chosen.shape[1],
        "ALIGN": align, "ALONE": blocks == 1, "STEP": sizes["STEP"],
    }  # fmt: skip
    placed = Launch(kernel_place, (blocks,), place, options)
    return (placed,) if blocks == 1 and align == 1 else (count, placed)


def empty(chosen: Tensor, E: int, align: int, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """(scratch, an Order's parts), uninitialised."""
    N, R = chosen.numel(), rows_needed(chosen.numel(), E, align)

    def int32(*size: int) -> Tensor:
        return torch.empty(size, dtype=torch.int32, device=chosen.device)

    counts = int32(cdiv(N, int(config["BLOCK"])), max(triton.next_power_of_2(E), 2))
    return counts, {"offsets": int32(E), "rows": int32(*chosen.shape), "pairs": int32(R), "tokens": int32(R)}


def order(chosen: Tensor, E: int, *, align: int = 1, config: Config | None = None) -> Order:
    """chosen (T, K) int64 or int32, in 0..E-1 -> Order, as ``reference``. Raises ValueError."""
    checks.tensor("order", "chosen", chosen, (torch.int64, torch.int32), (None, None), contiguous=True, aligned=False)
    checks.device("order", NEEDS, chosen)
    if not 1 <= E <= MOST_EXPERTS:
        raise ValueError(f"order: E is {E}, expected 1 to {MOST_EXPERTS} experts")
    if align < 1 or align & (align - 1):
        raise ValueError(f"order: align is {align}, expected a power of two")
    if rows_needed(chosen.numel(), E, align) > MOST_CHOICES:
        raise ValueError(f"order: chosen has shape {tuple(chosen.shape)}; more than {MOST_CHOICES} rows")
    config = config or blocks_for(chosen.numel())
    counts, parts = empty(chosen, E, align, config)
    if not chosen.numel():
        parts["offsets"].zero_()
    elif not chosen.is_meta:
        run(launches_order(chosen, counts, parts, align=align, config=config))
    return Order(**parts)
