"""What this GPU does at most, as torch reaches it: the ceilings that every kernel of the same run is set against.

    copy            read and write, 16-bit elements
    read            sum of 32-bit elements: the bytes are only read
    bf16            torch's matrix product
    fp8-rowwise     scaled_mm with one scale a row; fp8-rowwise-fast: accumulated in the tensor cores throughout
    fp8-block       scaled_mm with 1 x 128 and 128 x 128 scales, as DeepSeek-V3 has them

On random normal data, never zeros, on which products run faster. torch is imported by what needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from v3bench.suite.laws.work import Work
from v3bench.suite.ledger.cases import Case
from v3bench.suite.meter import graph
from v3bench.suite.meter.contender import Call, Contender

if TYPE_CHECKING:
    from torch import Tensor
    from v3bench.suite.meter.recorder import Recorder

SEED = 20250514
ROWS = 16  # of a product that are checked; the least that scaled_mm takes
# Relative, in the Frobenius norm: bfloat16 output rounds by 2e-3, 14-bit accumulation over 8192 stays below 1e-2. A
# scale in the wrong place is off by order 1.
CLOSE = 2e-2


@dataclass(frozen=True)
class Operands:
    """One buffer set: the launch, its result, and the first rows of what that should be (or all of it), in float64."""

    launch: Call
    got: Callable[[], Tensor]
    want: Callable[[], Tensor]


def copy(n: int, device: str) -> Operands:
    import torch

    source = torch.randn(n, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    return Operands(partial(target.copy_, source), lambda: target, lambda: source)


def read(n: int, device: str) -> Operands:
    import torch

    # Off zero, or the sum would be all cancellation.
    source = torch.randn(n, device=device) + 1
    return Operands(source.sum, source.sum, partial(source.sum, dtype=torch.float64))


def bf16(n: int, device: str) -> Operands:
    import torch

    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=device) for _ in range(2))
    launch = partial(torch.mm, a, b.t())
    return Operands(launch, lambda: launch()[:ROWS], lambda: a[:ROWS].double() @ b.double().t())


def fp8_rowwise(n: int, device: str, *, fast: bool = False) -> Operands:
    import torch
    from torch.nn.functional import ScalingType, scaled_mm

    (a, sa), (b, sb) = (by_row(torch.randn(n, n, device=device)) for _ in range(2))
    kind = ScalingType.RowWise
    launch = partial(scaled_mm, a, b.t(), sa, kind, sb.t(), kind, use_fast_accum=fast)
    want = lambda: (a[:ROWS].double() * sa[:ROWS]) @ (b.double() * sb).t()
    return Operands(launch, lambda: launch()[:ROWS], want)


def by_row(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, K) -> codes (M, K) e4m3, scales (M, 1) float32."""
    from v3bench.kernels.quantize import FP8, FP8_MAX

    scales = x.abs().amax(1, keepdim=True) / FP8_MAX
    return (x / scales).to(FP8), scales


def fp8_block(n: int, device: str) -> Operands:
    import torch
    from torch.nn.functional import ScalingType, scaled_mm
    from v3bench.kernels.quantize import TILE, reference_blocks, reference_tiles

    a, sa = reference_tiles(torch.randn(n, n, device=device))
    b, sb = reference_blocks(torch.randn(n, n, device=device))
    kinds = ScalingType.BlockWise1x128, ScalingType.BlockWise128x128
    launch = partial(scaled_mm, a, b.t(), columns(sa), kinds[0], padded(sb).t(), kinds[1])

    def want() -> Tensor:
        rows = a[:ROWS].double() * sa[:ROWS].repeat_interleave(TILE, 1)
        return rows @ (b.double() * sb.repeat_interleave(TILE, 0).repeat_interleave(TILE, 1)).t()

    return Operands(launch, lambda: launch()[:ROWS], want)


def padded(scales: Tensor) -> Tensor:
    """Block scales (N/128, K/128), contiguous, with columns up to a multiple of 4, which cuBLASLt reads."""
    import torch

    return torch.nn.functional.pad(scales, (0, -scales.shape[1] % 4))


def columns(scales: Tensor) -> Tensor:
    """The same scales, one column after another in memory."""
    return scales.t().contiguous().t()


@dataclass(frozen=True)
class Ceiling:
    """One of them: its operands at a size, and what a launch must do."""

    operands: Callable[[int, str], Operands]
    work: Callable[[int], Work]
    precision: str


def product(peak: Any, width: int, scales: Callable[[int], int]) -> Callable[[int], Work]:
    """Work of an (n, n) by (n, n) product of elements ``width`` bytes wide, with its scales, bfloat16 out."""
    return lambda n: Work(2 * n**3, 2 * width * n * n + scales(n) + 2 * n * n, peak)


BY_ROW = product("fp8", 1, lambda n: 4 * 2 * n)
CEILINGS: Mapping[str, Ceiling] = {
    "copy": Ceiling(copy, lambda n: Work(0, 2 * 2 * n, "", n), "bfloat16"),
    "read": Ceiling(read, lambda n: Work(0, 4 * n, "", n), "float32"),
    "bf16": Ceiling(bf16, product("bf16", 2, lambda n: 0), "bfloat16"),
    "fp8-rowwise": Ceiling(fp8_rowwise, BY_ROW, "fp8"),
    "fp8-rowwise-fast": Ceiling(partial(fp8_rowwise, fast=True), BY_ROW, "fp8"),
    "fp8-block": Ceiling(fp8_block, product("fp8", 1, lambda n: 4 * (n * n // 128 + n * n // 128**2)), "fp8"),
}


def work(case: Case) -> Work:
    """FLOPs and bytes of one launch of a ceiling's case."""
    return CEILINGS[case.shape["kind"]].work(case.shape["n"])


def ceilings(record: Recorder, case: Case, device: str = "cuda") -> None:
    """The benchmark of a ceiling's case: check, then time; ``kind`` and ``n`` are its shape."""
    ceiling, n = CEILINGS[case.shape["kind"]], case.shape["n"]

    def build() -> dict[str, Contender]:
        import torch
        from v3bench.kernels import checks

        lacking = checks.missing(checks.HOPPER, torch.device(device)) if ceiling.precision == "fp8" else ""
        if lacking:
            record.gate(lambda: None)
            return dict.fromkeys(case.series, Contender(missing=lacking))
        torch.manual_seed(SEED)
        sets = graph.sets_needed(ceiling.work(n).nbytes, graph.l2_bytes())
        operands = [ceiling.operands(n, device) for _ in range(sets)]
        record.gate(lambda: check(operands[0]))
        contender = Contender([each.launch for each in operands])
        return dict.fromkeys(case.series, contender)

    record.timed_kernels(build, precision=ceiling.precision)


def check(operands: Operands) -> None:
    """Raise AssertionError unless the launch gives what it should."""
    operands.launch()
    got, want = operands.got().double(), operands.want().double()
    error = float((got - want).norm() / want.norm())
    assert error <= CLOSE, f"the result is off by {error:.1e} of its norm"  # NaN is no less than anything
